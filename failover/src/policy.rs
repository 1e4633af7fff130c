//! What the configuration says about failover. Replaced as a whole by [`crate::input::Input::Policy`].

use crate::heartbeat::{KeyId, PairId};
use std::time::Duration;

/// The machine's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The pair, as its state names it.
    pub pair: PairId,
    /// This node.
    pub own: KeyId,
    /// The other node.
    pub peer: KeyId,
    /// Whether this node is the preferred one. Decides only between equal lineages (R1).
    pub preferred: bool,
    /// Number of links, 1 to [`Policy::MAX_LINKS`].
    pub links: u8,
    /// Interval of heartbeats. Default 200 ms.
    pub heartbeat: Duration,
    /// Silence on every link after which the peer is questioned. Default 600 ms.
    pub dead_after: Duration,
    /// Bound of the confirmation round. Default 200 ms.
    pub confirm: Duration,
    /// R3. Default 60 s.
    pub max_stale: Duration,
    /// Whether a standby that is only catching up may take over. Default false.
    pub allow_catching_up: bool,
    /// R4 override: become master alone at boot. Default false.
    pub boot_alone: bool,
    /// How long a starting node listens for its peer before it looks at R4. Default 5 s.
    pub boot_wait: Duration,
    /// Valid lifetime of floating addresses in the kernel; refreshed every third of it. Default 20 s.
    pub address_lifetime: Duration,
    /// Bound of the wait for the apply in flight at a takeover. Default 2 s.
    pub apply_stop: Duration,
    /// Bound of putting the spool of a `hold` into the trees at a takeover. Default 10 s.
    pub spool: Duration,
    /// Bound of a planned move up to its last point of return. Default 10 s.
    pub move_timeout: Duration,
    /// Largest lag with which a planned move begins. Default 5 s.
    pub move_lag: Duration,
    /// Bound of one step whose result comes from outside (addresses, epoch, services). Default 30 s.
    pub step_timeout: Duration,
    /// Bound of the wait for the new epoch at a takeover, after which a person is told. The floating addresses wait on,
    /// unless the takeover is forced. Default 5 s.
    pub epoch_wait: Duration,
    /// After an automatic hand-over, how long this node does not hand back by itself. Default 60 s.
    pub settle: Duration,
    /// Announcements in a burst. Default 5.
    pub announce_times: u8,
    /// Distance of the announcements in a burst. Default 100 ms.
    pub announce_every: Duration,
    /// Bound of the fence device that cuts off the *peer*; `None`: there is none. With one, nobody takes over before it has said that
    /// it did. Default none.
    pub peer_fence: Option<Duration>,
    /// Digest of the whole configuration.
    pub config_digest: u64,
    /// Digest of what must be equal (R7): floating IPs, trees, and by what it is decided who serves.
    pub config_matters: u64,
}

impl Policy {
    /// Most links that a pair may have: each has its state in every node, and its own socket.
    pub const MAX_LINKS: u8 = 8;

    /// Defaults for a pair; the caller fills in what is particular.
    pub fn new(pair: PairId, own: KeyId, peer: KeyId) -> Self {
        Self {
            pair,
            own,
            peer,
            preferred: false,
            links: 1,
            heartbeat: Duration::from_millis(200),
            dead_after: Duration::from_millis(600),
            confirm: Duration::from_millis(200),
            max_stale: Duration::from_secs(60),
            allow_catching_up: false,
            boot_alone: false,
            boot_wait: Duration::from_secs(5),
            address_lifetime: Duration::from_secs(20),
            apply_stop: Duration::from_secs(2),
            spool: Duration::from_secs(10),
            move_timeout: Duration::from_secs(10),
            move_lag: Duration::from_secs(5),
            step_timeout: Duration::from_secs(30),
            epoch_wait: Duration::from_secs(5),
            settle: Duration::from_secs(60),
            announce_times: 5,
            announce_every: Duration::from_millis(100),
            peer_fence: None,
            config_digest: 0,
            config_matters: 0,
        }
    }

    /// Bound of a stop as a whole, hand-over included: a move up to its record, the record, and the steps after it.
    pub fn stop_bound(&self) -> Duration {
        let steps = self.step_timeout.saturating_mul(4);
        self.move_timeout.saturating_mul(2).saturating_add(steps)
    }

    /// R4: silence of the peer after which it cannot have taken over by itself any more
    /// (`max_stale` + dead time + 10 %).
    pub fn solo_after(&self) -> Duration {
        let dead = self.dead_after.saturating_add(self.confirm);
        let sum = self.max_stale.saturating_add(dead);
        sum.saturating_add(sum / 10)
    }
}
