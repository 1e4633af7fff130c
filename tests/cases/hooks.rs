//! What runs at a change of role, when it hangs or fails.

use crate::harness::*;
use std::time::{Duration, Instant};
use tandem_lab::pair::DEFAULT_BODY;

#[test]
fn a_hook_that_hangs_and_mail_that_fails_delay_no_takeover_and_are_shown() {
    let actions = r#"
[[hook]]
on = "master"
command = ["/bin/sleep", "1000"]
timeout = "5s"

[mail]
to = ["operator@example.com"]
from = "tandem@example.com"
sendmail = "/bin/false"
"#;
    let body = format!("{DEFAULT_BODY}{actions}");
    let scene = SceneOptions::new().body(&body).make();
    scene.fill();
    scene.start();
    let probe = scene.probe();
    scene.wait_served_by(&probe, ONE);
    let since = Instant::now();
    scene.power_cut(ONE);
    scene.wait_served_by(&probe, TWO);
    let gap = probe.log().longest_gap(since).expect("answers came");
    assert!(
        gap < Duration::from_secs(5),
        "the hook was waited for: {gap:?}"
    );
    let shown = scene.wait_status(TWO, "shows both failures", |s| {
        let has = |words: &str| s.alarms.iter().any(|a| a.contains(words));
        has("not mailed") && has("/bin/sleep")
    });
    assert!(shown.addresses.iter().all(|a| a.held), "{shown:?}");
}
