//! Monitors asked once, within the round of questions that follows the silence of the peer.

use super::judge::Judge;
use super::{CountsFor, MonitorConfig, MonitorState, Surroundings, Vantage, Verdict};
use crate::health::Health;
use futures_util::stream::{FuturesUnordered, Stream, StreamExt};
use std::time::Duration;

/// Asks every service monitor that can be asked from here once, all at once, each at most `within`. Answers whether at least
/// one service answered well, at the peer. Cancel safe.
pub async fn any_service_once(
    monitors: &[MonitorConfig],
    surroundings: &Surroundings,
    within: Duration,
) -> bool {
    let services = monitors
        .iter()
        .filter(|m| m.counts_for == CountsFor::Service);
    asked_once(services, surroundings, within)
        .any(|verdict| std::future::ready(matches!(verdict, Some(Verdict::Good(_)))))
        .await
}

/// Asks the network monitors once, all at once, each at most `within`. Good as soon as one is answered, bad if none is, unknown if
/// there is none that can be asked. Cancel safe.
///
/// Asked are those whose last good answer, as `states` shows it, came in half of that time at most: the silence of one that needs
/// longer, or that never succeeded, is no evidence.
pub async fn network_once(
    monitors: &[MonitorConfig],
    states: &[MonitorState],
    surroundings: &Surroundings,
    within: Duration,
) -> Health {
    let is_quick = |monitor: &&MonitorConfig| {
        let state = states.iter().find(|s| s.name == monitor.name);
        let took = state.and_then(|s| s.took);
        monitor.counts_for == CountsFor::Network && took.is_some_and(|took| took <= within / 2)
    };
    let quick = monitors.iter().filter(is_quick);
    let mut verdicts = asked_once(quick, surroundings, within);
    let mut health = Health::Unknown;
    while let Some(verdict) = verdicts.next().await {
        match verdict {
            Some(Verdict::Good(_)) => return Health::Good,
            Some(Verdict::Bad(_)) | None => health = Health::Bad,
            Some(Verdict::Uncounted(_)) => {}
        }
    }
    health
}

/// What the monitors say, each once, in the order in which they are answered. `None`: not in time.
fn asked_once<'a>(
    monitors: impl Iterator<Item = &'a MonitorConfig>,
    surroundings: &Surroundings,
    within: Duration,
) -> impl Stream<Item = Option<Verdict>> + Unpin {
    let questions = monitors.map(|m| {
        let monitor = MonitorConfig {
            timeout: m.timeout.min(within),
            ..m.clone()
        };
        let mut judge = Judge::new(surroundings.clone());
        async move {
            let asked = judge.ask(&monitor, Vantage::Watcher);
            tokio::time::timeout(within, asked).await.ok()
        }
    });
    questions.map(Box::pin).collect::<FuturesUnordered<_>>()
}
