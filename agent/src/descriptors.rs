//! How many files the agent may have open.
//!
//! A batch of small files is open as a whole while it is made durable: a few thousand at once. Shells and service
//! managers give 1024 and let a process ask for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the agent asks for, as `LimitNOFILE` of etc/tandem.service: batches, directories, sessions and probes together
/// stay far below.
const WANTED: u64 = 65_536;
/// With less than this, batches of small files meet the limit and are applied in several attempts.
const ENOUGH: u64 = 16_384;

/// Raises the soft limit (getrlimit(2), `RLIMIT_NOFILE`) as far as the hard one allows. Never lowers it.
pub fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = raised(limit);
    let now = match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => wanted,
        Err(_) => limit,
    };
    // `None` is no limit.
    if let Some(limit) = now.current
        && limit < ENOUGH
    {
        tracing::warn!(
            limit,
            enough = ENOUGH,
            "few files may be open at once: large batches take several attempts; raise LimitNOFILE of the unit, or \
             the hard limit of whoever starts the agent"
        );
    }
}

fn raised(limit: Rlimit) -> Rlimit {
    let reachable = limit.maximum.map_or(WANTED, |hard| hard.min(WANTED));
    Rlimit {
        current: limit.current.map(|soft| soft.max(reachable)),
        maximum: limit.maximum,
    }
}

#[cfg(test)]
mod tests {
    use super::raised;
    use rustix::process::Rlimit;

    #[test]
    fn the_soft_limit_goes_up_to_what_the_hard_one_allows() {
        for (soft, hard, expected) in [
            (Some(1024), Some(524_288), Some(65_536)),
            (Some(1024), Some(4096), Some(4096)),
            (Some(1024), None, Some(65_536)),
            (Some(100_000), Some(524_288), Some(100_000)),
            (Some(4096), Some(4096), Some(4096)),
            (None, None, None),
        ] {
            let limit = Rlimit {
                current: soft,
                maximum: hard,
            };
            let now = raised(limit);
            assert_eq!(
                (now.current, now.maximum),
                (expected, hard),
                "{soft:?} {hard:?}"
            );
        }
    }
}
