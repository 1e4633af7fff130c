//! What stands in the place of the file, and in which bytes; and whose a path is that more than one may claim.

use super::super::own::{effective_exclude, own_paths};
use super::super::{LoadError, load};
use super::{SMALL, parse};
use std::path::Path;

fn error_of(file: &Path) -> String {
    load(file)
        .expect_err("this is no configuration")
        .to_string()
}

#[test]
fn only_a_regular_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    assert!(error_of(&dir.path().join("none")).contains("No such file"));
    assert!(error_of(dir.path()).contains("not a regular file"));
    assert!(error_of(Path::new("/dev/zero")).contains("not a regular file"));
    // Nobody writes into it: reading it would never end.
    let fifo = dir.path().join("fifo");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    assert!(error_of(&fifo).contains("not a regular file"));
    let huge = dir.path().join("huge");
    std::fs::write(&huge, vec![b'#'; 2 << 20]).unwrap();
    assert!(error_of(&huge).contains("larger than 1 MiB"));
}

#[test]
fn bytes_that_are_no_utf8_have_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    std::fs::write(&file, b"[pair]\n\n# \xc3\xa4 \xff\xfe name\n").unwrap();
    let Err(LoadError::Invalid(problems)) = load(&file) else {
        panic!("this has a place");
    };
    let shown = problems.to_string();
    assert!(
        shown.contains("t.toml:3:5: error: not UTF-8: the byte 0xff"),
        "{shown}"
    );
    assert!(shown.contains("hint: save"), "{shown}");
}

#[test]
fn a_byte_order_mark_and_line_ends_of_another_system_mean_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("t.toml");
    std::fs::write(&file, SMALL).unwrap();
    let plain = load(&file).unwrap().config;
    std::fs::write(&file, format!("\u{feff}{}", SMALL.replace('\n', "\r\n"))).unwrap();
    assert_eq!(load(&file).unwrap().config, plain);
}

#[test]
fn what_lies_in_a_tree_within_another_belongs_to_it_alone() {
    let more = "[[tree]]\nname = \"big\"\npath = \"/home/big\"\n";
    let config = parse(&format!("{SMALL}{more}")).unwrap().config;
    let own = own_paths(&config, Path::new("/etc/tandem.toml"));
    let excluded = |tree| effective_exclude(tree, &own);
    let excluded: Vec<Vec<String>> = config.trees.iter().map(excluded).collect();
    assert_eq!(excluded, [vec!["/big".to_owned()], vec![]]);
}
