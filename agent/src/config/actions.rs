//! `[[service]]`, `[[hook]]` and `[mail]`: what is done at a change of role.

use super::decode::{Notes, millis, seconds};
use super::problem::Problem;
use super::section::{At, Reader, read_tables};
use super::time::duration;
use super::types::{Hook, HookEvent, Mail, MailVia, Service, ServiceControl};
use super::value::{Complaint, argv, choice, list, name, path, text};
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Most services, and most hooks: they run one after the other during a takeover.
const LIMIT: usize = 64;
/// Most recipients.
const RECIPIENTS: usize = 32;

/// Decodes all services; those with errors are reported and left out.
pub(super) fn decode_services(root: &DeTable<'_>, notes: &mut Notes) -> Vec<Service> {
    let readers = read_tables(root, "service", "service", &mut notes.errors);
    if let Some(reader) = readers.get(LIMIT) {
        notes.errors.push(Problem::new(
            reader.span.clone(),
            format!("more than {LIMIT} services"),
        ));
    }
    let mut list: Vec<Service> = Vec::new();
    for reader in &readers {
        let Some((service, at)) = decode_service(reader, notes) else {
            continue;
        };
        for other in &list {
            if other.name == service.name {
                let message = format!("two services named `{}`", service.name);
                notes.errors.push(Problem::new(at.span.clone(), message));
            } else if let (ServiceControl::Unit(a), ServiceControl::Unit(b)) =
                (&other.control, &service.control)
                && a == b
            {
                let message = format!(
                    "the services `{}` and `{}` are one unit",
                    other.name, service.name
                );
                notes
                    .errors
                    .push(Problem::new(reader.span_of("unit"), message));
            }
        }
        list.push(service);
    }
    list
}

fn decode_service(reader: &Reader<'_>, notes: &mut Notes) -> Option<(Service, At<String>)> {
    let errors = &mut notes.errors;
    let name = reader.get("name", name, errors);
    let unit = reader.optional("unit", unit, errors);
    let start = reader.optional("start", argv, errors);
    let stop = reader.optional("stop", argv, errors);
    let timeout = reader.get("timeout", duration(millis(100)..=seconds(3600)), errors);
    let given = |key| reader.given(key);
    match (given("unit"), given("start"), given("stop")) {
        (Some(_), None, None) | (None, Some(_), Some(_)) => {}
        (Some(_), Some(span), _) | (Some(_), None, Some(span)) => {
            errors.push(Problem::new(
                span,
                "a service has either `unit`, or `start` and `stop`",
            ));
        }
        (None, Some(_), None) | (None, None, Some(_)) => {
            let message = "a service without `unit` needs both `start` and `stop`";
            errors.push(Problem::absent(reader.span.clone(), message));
        }
        (None, None, None) => {
            let message = "a service needs `unit`, or `start` and `stop`";
            errors.push(Problem::absent(reader.span.clone(), message));
        }
    }
    let control = match (unit, start, stop) {
        (Some(unit), None, None) => ServiceControl::Unit(unit.value),
        (None, Some(start), Some(stop)) => ServiceControl::Argv {
            start: start.value,
            stop: stop.value,
        },
        _ => return None,
    };
    let name = name?;
    let service = Service {
        name: name.value.clone(),
        control,
        timeout: timeout?.value,
    };
    Some((service, name))
}

/// systemd.unit(5): a unit name. One without suffix is a service, as for systemctl.
fn unit(value: &Spanned<DeValue<'_>>) -> Result<String, Complaint> {
    let text = text(value)?;
    let good = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    if !text.chars().all(good) || text.starts_with('-') || text.len() > 255 {
        return Err(Complaint::new("must be the name of a systemd unit")
            .hint("for example \"apache2.service\""));
    }
    const SUFFIXES: [&str; 6] = [
        ".service", ".target", ".socket", ".timer", ".mount", ".path",
    ];
    if SUFFIXES.iter().any(|s| text.ends_with(s)) {
        return Ok(text.to_owned());
    }
    Ok(format!("{text}.service"))
}

/// Decodes all hooks; those with errors are reported and left out.
pub(super) fn decode_hooks(root: &DeTable<'_>, notes: &mut Notes) -> Vec<Hook> {
    const EVENTS: &[(&str, HookEvent)] = &[
        ("master", HookEvent::Master),
        ("standby", HookEvent::Standby),
        ("freeze", HookEvent::Freeze),
        ("thaw", HookEvent::Thaw),
    ];
    let readers = read_tables(root, "hook", "hook", &mut notes.errors);
    if let Some(reader) = readers.get(LIMIT) {
        notes.errors.push(Problem::new(
            reader.span.clone(),
            format!("more than {LIMIT} hooks"),
        ));
    }
    let mut list: Vec<Hook> = Vec::new();
    for reader in &readers {
        let errors = &mut notes.errors;
        let on = reader.get("on", choice(EVENTS), errors);
        let argv = reader.get("command", argv, errors);
        let timeout = reader.get("timeout", duration(millis(100)..=seconds(3600)), errors);
        let (Some(on), Some(argv), Some(timeout)) = (on, argv, timeout) else {
            continue;
        };
        list.push(Hook {
            on: on.value,
            argv: argv.value,
            timeout: timeout.value,
        });
    }
    let has = |event| list.iter().any(|h| h.on == event);
    if has(HookEvent::Freeze) && !has(HookEvent::Thaw) {
        let span = readers.first().map_or(0..0, |r| r.span.clone());
        let problem = Problem::new(
            span,
            "there is a freeze hook and no thaw hook: a planned move that is given up leaves writers stopped",
        );
        notes.warnings.push(problem);
    }
    list
}

/// Decodes the mail section. `None`: a problem was reported.
pub(super) fn decode_mail(reader: &Reader<'_>, notes: &mut Notes) -> Option<Mail> {
    let errors = &mut notes.errors;
    let to = reader.get("to", list(mail_address, RECIPIENTS), errors);
    let from = reader.get("from", mail_address, errors);
    let sendmail = reader.optional("sendmail", path, errors);
    let smtp = reader.optional("smtp", host_and_port, errors);
    if let Some(to) = &to
        && to.value.is_empty()
    {
        errors.push(Problem::new(
            to.span.clone(),
            "`to` must name a recipient, found an empty list",
        ));
    }
    if let (Some(_), Some(span)) = (reader.given("sendmail"), reader.given("smtp")) {
        errors.push(Problem::new(
            span,
            "mail goes by `sendmail` or by `smtp`, not by both",
        ));
    }
    let via = match (sendmail, smtp) {
        (_, Some(smtp)) => MailVia::Smtp(smtp.value.0, smtp.value.1),
        (Some(program), None) => MailVia::Sendmail(program.value),
        (None, None) => MailVia::Sendmail(PathBuf::from("/usr/sbin/sendmail")),
    };
    Some(Mail {
        to: to?.value,
        from: from?.value,
        via,
    })
}

fn mail_address(value: &Spanned<DeValue<'_>>) -> Result<String, Complaint> {
    let text = text(value)?;
    match text.parse::<lettre::Address>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(Complaint::new("must be a mail address")
            .hint("for example \"operator@example.com\", without a name")),
    }
}

fn host_and_port(value: &Spanned<DeValue<'_>>) -> Result<(String, u16), Complaint> {
    let text = text(value)?;
    let wrong = || {
        Complaint::new("must be a host and a port")
            .hint("for example \"localhost:25\" or \"[::1]:25\"")
    };
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let good = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c))
        }
    };
    if good {
        Ok((bare.unwrap_or(host).to_owned(), port))
    } else {
        Err(wrong())
    }
}
