//! Not a test: figures for the design. `cargo nextest run --run-ignored only speed --no-capture`.

use super::*;

#[test]
#[ignore = "measures; the figures depend on the machine"]
fn small_files_per_second() {
    let setup = setup();
    let content = [7u8; 1024];
    let began = std::time::Instant::now();
    for batch in 0..5 {
        let mut work = vec![make_dir(&format!("d{batch}"))];
        work.extend(
            (0..2000).map(|i| setup.file(&format!("d{batch}/f{i}"), Expect::Nothing, &content)),
        );
        let staged = began.elapsed();
        assert_eq!(failed(&setup.apply(work)), []);
        println!(
            "batch {batch}: staged after {staged:?}, applied after {:?}",
            began.elapsed()
        );
    }
    println!("10000 files of 1 KiB in {:?}", began.elapsed());
    let began = std::time::Instant::now();
    let mut count = 0;
    crate::scan::walk(&setup.root, &RelPath::root(), &|_, _| false, &mut |_, _| {
        count += 1;
        std::ops::ControlFlow::Continue(())
    })
    .expect("walk");
    println!("{count} entries walked in {:?}", began.elapsed());
}

#[test]
#[ignore = "measures; the figures depend on the machine"]
fn one_small_file() {
    let setup = setup();
    for i in 0..20 {
        let name = format!("f{i}");
        let began = std::time::Instant::now();
        let report = setup.apply(vec![setup.file(&name, Expect::Nothing, b"x")]);
        println!("{:?}", began.elapsed());
        assert_eq!(failed(&report), []);
    }
}
