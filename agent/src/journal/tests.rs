use super::*;
use std::os::unix::fs::PermissionsExt;

const SOON: Duration = Duration::from_secs(30);

fn small() -> Limits {
    Limits {
        bytes: 2000,
        files: 2,
    }
}

fn value(record: &RawValue) -> serde_json::Value {
    serde_json::from_str(record.get()).unwrap()
}

#[test]
fn records_come_back_in_order_with_their_frame() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), Limits::default()).unwrap();
    journal.record("decision", &serde_json::json!({"why": "peer dead"}));
    journal.record("notice", &7);
    assert!(journal.flush(SOON));
    let records = journal.tail(10).unwrap();
    assert_eq!(records.len(), 2);
    let first = value(&records[0]);
    assert_eq!(first["v"], FORMAT);
    assert_eq!(first["kind"], "decision");
    assert_eq!(first["data"]["why"], "peer dead");
    assert!(first["boot_ns"].as_u64().unwrap() > 0);
    assert!(first.get("lost").is_none());
    assert_eq!(value(&records[1])["data"], 7);
    let mode = std::fs::metadata(directory.path().join(FILE)).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_files_stay_within_their_bound_and_keep_the_newest() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), small()).unwrap();
    for number in 0..200 {
        journal.record("n", &number);
    }
    assert!(journal.flush(SOON));
    let mut names: Vec<_> = std::fs::read_dir(directory.path())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            assert!(entry.metadata().unwrap().len() <= small().bytes);
            entry.file_name().into_string().unwrap()
        })
        .collect();
    names.sort();
    assert_eq!(names, ["events.jsonl", "events.jsonl.1"]);
    let numbers: Vec<_> = journal
        .tail(15)
        .unwrap()
        .iter()
        .map(|record| value(record)["data"].as_u64().unwrap())
        .collect();
    assert_eq!(numbers, (185..200).collect::<Vec<_>>());
}

#[test]
fn a_torn_line_is_left_out_and_costs_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(FILE);
    std::fs::write(&path, "{\"v\":1,\"data\":1}\n{\"v\":1,\"da").unwrap();
    let journal = Journal::open(directory.path(), Limits::default()).unwrap();
    journal.record("n", &2);
    assert!(journal.flush(SOON));
    let records = journal.tail(10).unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(value(&records[1])["data"], 2);
}

#[test]
fn dropping_writes_what_is_queued() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), Limits::default()).unwrap();
    for number in 0..50 {
        journal.record("n", &number);
    }
    drop(journal);
    let text = std::fs::read_to_string(directory.path().join(FILE)).unwrap();
    assert_eq!(text.lines().count(), 50);
}

#[test]
fn a_record_that_is_too_long_leaves_a_remark() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), Limits::default()).unwrap();
    journal.record("n", &"x".repeat(RECORD_MAX));
    assert!(journal.flush(SOON));
    let record = value(&journal.tail(1).unwrap()[0]);
    assert!(record["data"]["too_long"].as_u64().unwrap() > RECORD_MAX as u64);
}

#[test]
fn times_as_rfc_3339() {
    let at = |seconds| rfc3339(SystemTime::UNIX_EPOCH + Duration::from_millis(seconds));
    assert_eq!(at(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(at(951_782_400_000), "2000-02-29T00:00:00.000Z");
    assert_eq!(at(1_735_689_599_999), "2024-12-31T23:59:59.999Z");
    assert_eq!(at(4_107_542_400_000), "2100-03-01T00:00:00.000Z");
}
