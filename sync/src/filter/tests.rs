use super::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn check(pattern: &str, path: &str, is_dir: bool) -> bool {
    Filter::parse([pattern])
        .unwrap()
        .matches(&RelPath::new(path).unwrap(), is_dir)
}

#[test]
fn table() {
    // pattern, matching files, other files
    let table: &[(&str, &[&str], &[&str])] = &[
        ("x", &["x", "a/x", "a/b/x"], &["xx", "x/a", "ax"]),
        ("/x", &["x"], &["a/x", "x/a"]),
        (
            "*.tmp",
            &[".tmp", "a.tmp", "d/a.tmp"],
            &["a.tmpx", "a.tmp/b"],
        ),
        ("/*.tmp", &["a.tmp"], &["d/a.tmp"]),
        (
            "a/b",
            &["a/b", "x/a/b", "a/a/b"],
            &["xa/b", "a/b/c", "a/bc"],
        ),
        ("/a/b", &["a/b"], &["x/a/b"]),
        ("a/*", &["a/b", "x/a/b"], &["a/b/c", "a"]),
        ("/a/*/c", &["a/b/c", "a/x/c"], &["a/b/x/c", "a/c"]),
        ("/a/**", &["a/b", "a/b/c"], &["a", "b/a/c"]),
        ("**/c", &["c", "a/c", "a/b/c"], &["cc", "a/cc"]),
        ("/**/c", &["a/c", "a/b/c"], &["c"]),
        ("a/**/b", &["a/x/b", "a/x/y/b", "z/a/x/b"], &["a/b"]),
        (
            "a**b",
            &["ab", "a/b", "axx/yyb", "q/a/x/b"],
            &["qa/b", "abx"],
        ),
        ("**", &["a", "a/b"], &[]),
        ("?", &["a", "x/y"], &["ab", "a/bc"]),
        ("a?c", &["abc", "x/a.c"], &["a/c", "ac"]),
        ("/a?c", &["abc"], &["a/c"]),
        ("[abc]x", &["ax", "d/cx"], &["dx", "x"]),
        ("[a-c]", &["b"], &["d", "-"]),
        ("[a-]", &["a", "-"], &["b"]),
        ("[]a]", &["]", "a"], &["b"]),
        ("[!a]", &["b"], &["a"]),
        ("[^a-y]z", &["zz"], &["az"]),
        ("x[!a]y", &["xby"], &["x/y", "xay"]),
        ("\\*", &["*"], &["a"]),
        ("[\\]]", &["]"], &["\\"]),
        ("[[:alpha:]_]x", &["ax", "_x", "d/Zx"], &["1x", ":x"]),
        ("[![:digit:]a]", &["b", ":"], &["1", "a"]),
        ("[[:a]", &["[", ":", "a"], &["b"]),
        ("a/***", &["a/b", "x/a/b/c"], &["a", "ab"]),
        ("***x", &["x", "a/x"], &["xa"]),
        ("*a*b*c*", &["abc", "xaxbxcx"], &["acb", "ab/c"]),
        ("a\\\\", &["a\\"], &["a"]),
        (
            "lost+found",
            &["lost+found", "a/lost+found"],
            &["lostfound"],
        ),
        ("#*#", &["#a#"], &["#a"]),
        (" -x", &[" -x"], &["-x"]),
    ];
    for (pattern, yes, no) in table {
        for path in *yes {
            assert!(check(pattern, path, false), "{pattern} should match {path}");
        }
        for path in *no {
            assert!(
                !check(pattern, path, false),
                "{pattern} should not match {path}"
            );
        }
    }
}

#[test]
fn a_trailing_slash_is_for_directories() {
    assert!(check("cache/", "a/cache", true) && !check("cache/", "a/cache", false));
    assert!(check("/a/b/", "a/b", true) && !check("/a/b/", "x/a/b", true));
    assert!(check("cache", "cache", true), "without it both match");
    for pattern in ["cache/***", "/a/cache/***"] {
        assert!(check(pattern, "a/cache", true) && !check(pattern, "a/cache", false));
    }
    assert!(!check("/cache/***", "a/cache", true) && !check("che/***", "a/cache", true));
}

#[test]
fn a_directory_takes_its_content_with_it() {
    let filter = Filter::parse(["cache/", "/var/run"]).unwrap();
    let covers = |path: &str, is_dir| filter.covers(&RelPath::new(path).unwrap(), is_dir);
    assert!(covers("a/cache/b/c", false) && covers("cache", true) && covers("var/run/x", false));
    assert!(!covers("cache", false), "a file called like the directory");
    assert!(!covers("a/cache.d/x", false) && !covers("x/var/run/y", false));
    assert!(!filter.covers(&RelPath::root(), true));
    assert!(
        !Filter::parse(["**"])
            .unwrap()
            .matches(&RelPath::root(), true),
        "the root never matches"
    );
}

#[test]
fn bad_patterns_say_where_and_what_helps() {
    let table: &[(&str, usize, &str)] = &[
        ("", 0, "empty"),
        ("/", 0, "root"),
        ("a[b", 1, "not closed"),
        ("a[", 1, "not closed"),
        ("[]", 0, "not closed"),
        ("a[b\\", 1, "not closed"),
        ("x[z-a]", 2, "backwards"),
        ("[[:alpah:]]", 1, "unknown class"),
        ("[[::]]", 1, "unknown class"),
        ("[[:alpha:]", 0, "not closed"),
        ("a\\", 1, "backslash"),
        ("a//b", 2, "double"),
        ("a//", 2, "double"),
        ("../x", 0, "never match"),
        ("a/./b", 2, "never match"),
        ("./x", 0, "never matches"),
        ("+ x", 0, "rsync rule"),
        ("- x", 0, "rsync rule"),
        ("[ä]", 1, "beyond ASCII"),
    ];
    for (text, offset, what) in table {
        let error = text.parse::<Pattern>().unwrap_err();
        assert_eq!(error.offset, *offset, "{text}: {error}");
        assert!(error.what.contains(what), "{text}: {error}");
        assert!(!error.hint.is_empty());
        assert!(error.to_string().contains(text));
    }
    assert!("x".repeat(MAX_PATTERN).parse::<Pattern>().is_ok());
    assert!("x".repeat(MAX_PATTERN + 1).parse::<Pattern>().is_err());
}

#[test]
fn decoding_compiles_again() {
    let filter = Filter::parse(["*.o", "/x/"]).unwrap();
    let bytes = postcard::to_stdvec(&filter).unwrap();
    assert_eq!(postcard::from_bytes::<Filter>(&bytes).unwrap(), filter);
    let bad = postcard::to_stdvec(&vec!["a[".to_owned()]).unwrap();
    assert!(postcard::from_bytes::<Filter>(&bad).is_err());
}

#[test]
#[allow(clippy::disallowed_methods)] // measures real time: the bound is the point
fn a_nasty_pattern_is_bounded() {
    let pattern: Pattern = "*a".repeat(MAX_PATTERN / 2).parse().unwrap();
    let mixed: Pattern = ("**a".repeat(MAX_PATTERN / 3 - 1) + "b").parse().unwrap();
    let path =
        RelPath::new("a".repeat(255) + &("/".to_owned() + &"a".repeat(255)).repeat(200)).unwrap();
    let start = Instant::now();
    assert!(!pattern.matches(&path, false));
    assert!(!mixed.matches(&path, false));
    // 500 tokens * 51 000 bytes; exponential matching would never end.
    assert!(start.elapsed() < Duration::from_secs(20));
}

/// The plain definition, exponential: the model for short inputs.
fn model(pattern: &[u8], text: &[u8]) -> bool {
    match pattern {
        [] => text.is_empty(),
        [b'*', b'*', rest @ ..] => (0..=text.len()).any(|n| model(rest, &text[n..])),
        [b'*', rest @ ..] => (0..=text.len())
            .take_while(|n| !text[..*n].contains(&b'/'))
            .any(|n| model(rest, &text[n..])),
        [b'?', rest @ ..] => !text.is_empty() && text[0] != b'/' && model(rest, &text[1..]),
        [byte, rest @ ..] => text.first() == Some(byte) && model(rest, &text[1..]),
    }
}

fn model_matches(pattern: &str, path: &str) -> bool {
    // For what is no directory three stars are two.
    let mut pattern = pattern.to_owned();
    while pattern.contains("***") {
        pattern = pattern.replace("***", "**");
    }
    let pattern = pattern.as_str();
    let tails = std::iter::once(0).chain(path.match_indices('/').map(|(i, _)| i + 1));
    let mut tails = tails.map(|i| &path.as_bytes()[i..]);
    if let Some(rest) = pattern.strip_prefix('/') {
        return model(rest.as_bytes(), path.as_bytes());
    }
    if let Some(rest) = pattern.strip_prefix("**/") {
        return tails.any(|tail| model(rest.as_bytes(), tail));
    }
    if pattern.contains('/') || pattern.contains("**") {
        return tails.any(|tail| model(pattern.as_bytes(), tail));
    }
    model(
        pattern.as_bytes(),
        path.rsplit('/').next().unwrap().as_bytes(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn agrees_with_the_plain_definition(pattern in "/?[ab*?]{1,3}(/[ab*?]{1,3}){0,2}", path in "[ab]{1,3}(/[ab]{1,3}){0,3}") {
        let compiled: Pattern = pattern.parse().unwrap();
        let path_ok = RelPath::new(&path).unwrap();
        prop_assert_eq!(compiled.matches(&path_ok, false), model_matches(&pattern, &path), "{} {}", pattern, path);
    }

    #[test]
    fn no_text_breaks_the_compiler(text in "\\PC{0,20}", path in "[a-c/]{0,10}") {
        if let (Ok(pattern), Ok(path)) = (text.parse::<Pattern>(), RelPath::new(&path)) {
            pattern.matches(&path, true);
        }
    }
}
