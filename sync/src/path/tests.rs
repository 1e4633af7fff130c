use super::*;
use proptest::prelude::*;

fn p(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

#[test]
fn refuses_what_could_leave_the_tree() {
    let cases: &[(&[u8], PathError)] = &[
        (b"", PathError::Empty),
        (b"/etc", PathError::EmptyComponent),
        (b"a//b", PathError::EmptyComponent),
        (b"a/", PathError::EmptyComponent),
        (b".", PathError::Dots),
        (b"..", PathError::Dots),
        (b"a/../b", PathError::Dots),
        (b"a/./b", PathError::Dots),
        (b"a\0b", PathError::Nul),
    ];
    for (bytes, error) in cases {
        assert_eq!(RelPath::new(bytes), Err(*error), "{bytes:?}");
    }
    assert_eq!(
        RelPath::new(vec![b'x'; 256]),
        Err(PathError::ComponentTooLong(256))
    );
    assert!(RelPath::new(vec![b'x'; 255]).is_ok());
    // So many components that only the length is too much.
    let component = "x".repeat(127) + "/";
    let long = component.repeat(MAX_PATH / 128) + "x";
    assert_eq!(RelPath::new(&long), Err(PathError::TooLong(MAX_PATH + 1)));
    assert!(RelPath::new(&long[..MAX_PATH - 1]).is_ok());
    assert!(p("a").join(b"..").is_err());
    assert!(p("a").join(b"b/c").is_err());
    assert!(
        RelPath::new(&long[..MAX_PATH - 1])
            .unwrap()
            .join(b"x")
            .is_err()
    );
}

#[test]
fn names_that_only_look_odd_are_fine() {
    for name in ["...", "..a", "a..", "-rf", " ", "a\nb", "\u{202e}"] {
        assert!(RelPath::new(name).is_ok(), "{name:?}");
    }
    assert!(RelPath::new(b"\xff\xfe").is_ok());
}

#[test]
fn parts() {
    let path = p("a/b/c");
    assert_eq!(path.parent(), Some(p("a/b")));
    assert_eq!(path.file_name(), Some(&b"c"[..]));
    assert_eq!(p("a").parent(), Some(RelPath::root()));
    assert_eq!(RelPath::root().parent(), None);
    assert_eq!(RelPath::root().file_name(), None);
    assert_eq!(
        path.ancestors().collect::<Vec<_>>(),
        vec![p("a/b"), p("a"), RelPath::root()]
    );
    assert_eq!((path.depth(), RelPath::root().depth()), (3, 0));
    assert!(path.is_below(&p("a")) && !p("ab").is_below(&p("a")) && !p("a").is_below(&p("a")));
    assert!(p("a").is_at_or_below(&p("a")) && p("a").is_at_or_below(&RelPath::root()));
    assert!(p(".tandem/marker").is_private() && p(".tandem").is_private());
    assert!(!p("a/.tandem").is_private() && !p(".tandemx").is_private());
}

#[test]
fn a_directory_comes_directly_before_its_content() {
    let mut paths = [
        p("a.b"),
        p("a/x"),
        p("a"),
        p("a/x/y"),
        p("a-"),
        RelPath::root(),
        p("a/x.y"),
    ];
    paths.sort();
    let shown: Vec<String> = paths.iter().map(ToString::to_string).collect();
    assert_eq!(shown, [".", "a", "a/x", "a/x/y", "a/x.y", "a-", "a.b"]);
}

#[test]
fn a_path_has_so_many_components_and_no_more() {
    let deepest = "d/".repeat(MAX_DEPTH - 1) + "d";
    let path = RelPath::new(&deepest).unwrap();
    assert_eq!(path.depth(), MAX_DEPTH);
    assert_eq!(path.join(b"d"), Err(PathError::TooDeep));
    assert_eq!(path.parent().unwrap().join(b"d"), Ok(path));
    assert_eq!(RelPath::new(deepest + "/d"), Err(PathError::TooDeep));
}

#[test]
fn shown_without_control_characters() {
    let path = RelPath::new(b"a\x1b[31m\\\xff\xe2\x80\xae").unwrap();
    assert_eq!(path.to_string(), "a\\x1b[31m\\\\\\xff\\xe2\\x80\\xae");
    assert_eq!(RelPath::from_escaped("a\\q"), Err(PathError::Escape));
    assert_eq!(RelPath::from_escaped("a\\x4"), Err(PathError::Escape));
    assert_eq!(RelPath::from_escaped(".."), Err(PathError::Dots));
}

#[test]
fn decoding_validates() {
    let bad = postcard::to_stdvec(&serde_bytes_like(b"../x")).unwrap();
    assert!(postcard::from_bytes::<RelPath>(&bad).is_err());
    let good = postcard::to_stdvec(&serde_bytes_like(b"a/x")).unwrap();
    assert_eq!(postcard::from_bytes::<RelPath>(&good).unwrap(), p("a/x"));
    assert!(serde_json::from_str::<RelPath>("\"/etc/passwd\"").is_err());
}

/// A byte string with no check, as a hostile peer would write it.
fn serde_bytes_like(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

fn any_path() -> impl Strategy<Value = RelPath> {
    let component = proptest::collection::vec(any::<u8>(), 1..6);
    proptest::collection::vec(component, 0..5)
        .prop_filter_map("valid", |c| RelPath::from_bytes(&c.join(&b'/')).ok())
}

proptest! {
    #[test]
    fn every_encoding_round_trips(path in any_path()) {
        let bytes = postcard::to_stdvec(&path).unwrap();
        prop_assert_eq!(&postcard::from_bytes::<RelPath>(&bytes).unwrap(), &path);
        let json = serde_json::to_string(&path).unwrap();
        prop_assert_eq!(&serde_json::from_str::<RelPath>(&json).unwrap(), &path);
        prop_assert_eq!(&RelPath::from_sort_key(&path.sort_key()).unwrap(), &path);
    }

    #[test]
    fn order_is_that_of_components_and_of_sort_keys(a in any_path(), b in any_path(), alike in 0usize..200) {
        let begin = "d".repeat(alike);
        let [a, b] = [a, b].map(|path| {
            RelPath::from_bytes(&[begin.as_bytes(), path.as_bytes()].concat()).unwrap_or(path)
        });
        let by_components = a.components().cmp(b.components());
        prop_assert_eq!(a.cmp(&b), by_components);
        prop_assert_eq!(a.sort_key().cmp(&b.sort_key()), by_components);
    }

    #[test]
    fn random_bytes_never_make_a_path_that_escapes(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(path) = RelPath::from_bytes(&bytes) {
            prop_assert!(path.components().all(|c| check_component(c).is_ok()));
            prop_assert_eq!(path.as_bytes(), &bytes[..]);
        }
    }
}
