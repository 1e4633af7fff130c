//! Whether a service that the agent is to start starts at boot by itself, before it is known which node is master.

use crate::config::types::{Service, ServiceControl};
use std::fs;
use std::path::{Path, PathBuf};

/// What is wrong with a service's start, in words. `enabled` is the answer of `systemctl is-enabled`, if there is one;
/// without one the links say it that systemd and init follow. Asks the file system below `root`.
pub(super) fn doubt(service: &Service, enabled: Option<&str>, root: &Path) -> Option<String> {
    match &service.control {
        ServiceControl::Unit(unit) => doubt_of_unit(unit, enabled, root),
        ServiceControl::Argv { start, .. } => {
            let link = init_link(&start[0], root)?;
            Some(format!(
                "the service {} starts at boot by itself, before it is known which node is master: {} leads to {}",
                service.name,
                link.display(),
                start[0]
            ))
        }
    }
}

fn doubt_of_unit(unit: &str, enabled: Option<&str>, root: &Path) -> Option<String> {
    let starts = |why: &str| {
        Some(format!(
            "{unit} starts at boot by itself, before it is known which node is master{why}: `systemctl disable {unit}`"
        ))
    };
    match enabled {
        Some("enabled" | "enabled-runtime") => starts(""),
        Some("masked" | "masked-runtime") => Some(format!(
            "{unit} is masked: it cannot be started after a takeover"
        )),
        Some("not-found") => Some(format!("there is no unit {unit}")),
        // Another name of a unit: systemctl does not say here whether that one starts.
        Some("alias") | None => {
            let link = unit_link(unit, root)?;
            starts(&format!(" ({} wants it)", link.display()))
        }
        Some(_) => None,
    }
}

/// systemd.unit(5): units in `NAME.wants/` and `NAME.requires/` start with NAME.
fn unit_link(unit: &str, root: &Path) -> Option<PathBuf> {
    let units = root.join("etc/systemd/system");
    let real = real_name(&units.join(unit));
    for directory in children(&units) {
        let pulls = directory
            .extension()
            .is_some_and(|e| e == "wants" || e == "requires");
        if !pulls {
            continue;
        }
        let found = children(&directory).into_iter().find(|link| {
            link.file_name().is_some_and(|name| name == unit)
                || (real.is_some() && real_name(link) == real)
        });
        if found.is_some() {
            return found;
        }
    }
    None
}

/// The file name behind a link. The file itself need not be there.
fn real_name(link: &Path) -> Option<std::ffi::OsString> {
    let target = fs::read_link(link).ok()?;
    target.file_name().map(ToOwned::to_owned)
}

/// The start links of the run levels in which a machine serves, at both places where distributions have them.
fn init_link(program: &str, root: &Path) -> Option<PathBuf> {
    let wanted = fs::canonicalize(root.join(program.trim_start_matches('/'))).ok()?;
    let levels = ["etc", "etc/rc.d"]
        .into_iter()
        .flat_map(|base| (2..=5).map(move |level| format!("{base}/rc{level}.d")));
    levels
        .flat_map(|level| children(&root.join(level)))
        .find(|link| {
            let starts = link
                .file_name()
                .is_some_and(|name| name.as_encoded_bytes().starts_with(b"S"));
            starts && fs::canonicalize(link).is_ok_and(|target| target == wanted)
        })
}

/// What is in a directory, by name; nothing if it cannot be read.
fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut all: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    fn service(control: ServiceControl) -> Service {
        Service {
            name: "web".into(),
            control,
            timeout: Duration::from_secs(30),
        }
    }

    #[test]
    fn a_unit_that_starts_by_itself_is_doubted() {
        let nowhere = Path::new("/nowhere");
        let unit = service(ServiceControl::Unit("a.service".into()));
        let doubt = |state: &str| doubt(&unit, Some(state), nowhere).unwrap_or_default();
        assert!(doubt("enabled").contains("systemctl disable a.service"));
        assert!(doubt("not-found").contains("there is no unit"));
        assert!(doubt("masked").contains("cannot be started"));
        for fine in ["disabled", "static", "indirect", "generated", "linked"] {
            assert_eq!(doubt(fine), "", "{fine}");
        }
    }

    #[test]
    fn without_systemctl_the_links_say_it() {
        let root = tempfile::tempdir().unwrap();
        let units = root.path().join("etc/systemd/system");
        fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
        let unit = |name: &str| service(ServiceControl::Unit(name.into()));
        let doubt = |name: &str, state| doubt(&unit(name), state, root.path());
        assert_eq!(doubt("nginx.service", None), None);
        symlink(
            "/usr/lib/systemd/system/nginx.service",
            units.join("multi-user.target.wants/nginx.service"),
        )
        .unwrap();
        let found = doubt("nginx.service", None).unwrap();
        assert!(
            found.contains("multi-user.target.wants/nginx.service"),
            "{found}"
        );
        assert_eq!(doubt("other.service", None), None);
        // The name of the configuration is another name of the unit that is wanted.
        symlink(
            "/usr/lib/systemd/system/nginx.service",
            units.join("web.service"),
        )
        .unwrap();
        assert!(doubt("web.service", Some("alias")).is_some());
        assert_eq!(doubt("nginx.service", Some("disabled")), None);
    }

    #[test]
    fn a_start_script_is_found_by_its_links() {
        let root = tempfile::tempdir().unwrap();
        for directory in ["etc/init.d", "etc/rc3.d", "opt"] {
            fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        fs::write(root.path().join("etc/init.d/mysql"), "").unwrap();
        fs::write(root.path().join("opt/ctl"), "").unwrap();
        let argv = |program: &str| {
            let argv = |word: &str| vec![program.to_owned(), word.to_owned()];
            service(ServiceControl::Argv {
                start: argv("start"),
                stop: argv("stop"),
            })
        };
        let mysql = argv("/etc/init.d/mysql");
        assert_eq!(doubt(&mysql, None, root.path()), None);
        symlink("../init.d/mysql", root.path().join("etc/rc3.d/K20mysql")).unwrap();
        assert_eq!(doubt(&mysql, None, root.path()), None, "that link stops it");
        symlink("../init.d/mysql", root.path().join("etc/rc3.d/S20mysql")).unwrap();
        let found = doubt(&mysql, None, root.path()).unwrap();
        assert!(found.contains("rc3.d/S20mysql"), "{found}");
        assert_eq!(doubt(&argv("/opt/ctl"), None, root.path()), None);
    }
}
