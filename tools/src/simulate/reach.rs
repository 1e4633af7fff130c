//! The classes of histories, and how often each was reached.

use super::steps::Step;
use std::collections::BTreeMap;
use std::fmt;

/// Classes that a history is in or not, with their names.
macro_rules! classes {
    ($($class:ident = $name:literal,)*) => {
        /// A class of histories. Each is counted when the world shows it, not when somebody plans it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[allow(missing_docs)]
        pub enum Class {
            $($class,)*
            MoveCrash(Step),
            ConfigCrash(u8),
        }

        const NAMED: &[Class] = &[$(Class::$class,)*];

        impl fmt::Display for Class {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Class::$class => f.write_str($name),)*
                    Class::MoveCrash(step) => write!(f, "planned move, crash at {step:?}"),
                    Class::ConfigCrash(step) => {
                        let at = ["before the first", "between the two", "after the second"];
                        let at = at.get(usize::from(*step)).copied().unwrap_or("?");
                        write!(f, "configuration commit, crash {at}")
                    }
                }
            }
        }
    };
}

classes! {
    CrashAndReturn = "crash and return",
    HeardTermThenAlone = "heard the new term, then stood alone before the resync",
    PrivateCutThenHostDies = "private link cut for long, then the host dies",
    AgentDeadHostDiesLater = "agent dead, service alive, host dies later",
    LifetimeOver = "the kernel removes the address of a dead agent",
    PublicCutMaster = "public network cut at the master",
    PublicCutStandby = "public network cut at the standby",
    PublicCutBoth = "public network cut at both",
    OneWayLoss = "one-way loss",
    BothLinksCut = "both links cut, no witness",
    FencedFirst = "both links cut, the peer fenced before the takeover",
    FenceFailed = "both links cut, no takeover beside a fence that fails",
    TwoMasters = "two masters until contact",
    BothBoot = "both boot",
    OldMasterBootsAlone = "old master boots alone",
    StaleBootsAlone = "stale node boots alone",
    LonelyReboots = "three lonely reboots",
    DoubleFailover = "double failover",
    FailoverInFirstCopy = "master dies during the first copy",
    FailoverInReversal = "master dies during the reversal",
    FailoverInRescue = "master dies during the rescue",
    DiskReplaced = "disk replaced",
    TreesRestored = "trees restored from backup",
    ImageRestored = "machine image of one node restored",
    StateLostStandby = "state directory lost on the standby",
    StateLostMaster = "state directory lost on the master",
    Cloned = "disk cloned with key and state",
    Takeover = "automatic takeover",
    Refused = "a standby that may not be promoted stays standby",
    Rescued = "unreplicated writes rescued",
    Copying = "first copy seen half done",
    CatchingUp = "catching up seen half done",
    Hold = "master dies while applying is held",
    Maintenance = "master dies in maintenance",
    ForcedAgainstAdvice = "takeover forced, price shown",
    Switchover = "planned move completed",
    WaitsForPerson = "pair waits for a person and says why",
    Adopted = "adopted",
}

impl Class {
    /// Every class.
    pub fn all() -> Vec<Self> {
        let moves = Step::ALL.into_iter().map(Class::MoveCrash);
        let configs = (0..3).map(Class::ConfigCrash);
        NAMED.iter().copied().chain(moves).chain(configs).collect()
    }

    /// Histories that this simulation cannot reach yet, and why.
    pub const MISSING: [&'static str; 1] =
        ["both links cut with a witness: the machine knows no arbitrating witness yet"];
}

/// How often each class was reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach(BTreeMap<Class, u64>);

impl Reach {
    /// One more.
    pub fn count(&mut self, class: Class) {
        *self.0.entry(class).or_default() += 1;
    }

    /// Whether it was reached at all.
    pub fn has(&self, class: Class) -> bool {
        self.0.contains_key(&class)
    }

    /// Adds the histories of one run: each class counts once per history.
    pub fn add(&mut self, other: &Reach) {
        other.0.keys().for_each(|class| self.count(*class));
    }

    /// Classes that were never reached.
    pub fn missed(&self) -> Vec<Class> {
        let missed = |class: &Class| !self.has(*class);
        Class::all().into_iter().filter(missed).collect()
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for class in Class::all() {
            let count = self.0.get(&class).copied().unwrap_or(0);
            writeln!(f, "{count:>8}  {class}")?;
        }
        Ok(())
    }
}
