//! Contents that are to be sent: those of each tree with a limit in a lane of its own, so that they hold up no others.

use super::content::Content;
use crate::limit::{Limit, Meter, Pace, pace_at};
use crate::tree::TreeId;
use crate::wire::{Item, Want};
use std::collections::VecDeque;

/// One after the other, and only as fast as the tree's limit allows.
pub(super) struct Lane {
    limits: Vec<Limit>,
    meter: Meter,
    waiting: VecDeque<(Item, Want)>,
    /// What is being sent.
    pub content: Option<Content>,
}

impl Lane {
    fn new(limits: Vec<Limit>) -> Lane {
        Lane {
            limits,
            meter: Meter::new(Pace::Free),
            waiting: VecDeque::new(),
            content: None,
        }
    }

    /// What comes next, if nothing is being sent.
    pub fn next(&mut self) -> Option<(Item, Want)> {
        self.waiting.pop_front()
    }

    /// So many bytes were sent.
    pub fn sent(&mut self, now: u64, bytes: usize) {
        self.meter.sent(now, bytes as u64);
    }

    /// When there is something to send, if ever.
    fn ready_at(&self) -> Option<u64> {
        let has = match &self.content {
            Some(content) => !content.waits(),
            None => !self.waiting.is_empty(),
        };
        self.meter.ready_at().filter(|_| has)
    }
}

/// All lanes of a session.
pub(super) struct Lanes {
    /// The first one is that of the trees without limit.
    lanes: Vec<Lane>,
    /// Whose the others are.
    trees: Vec<TreeId>,
    /// Where the search for the next one begins.
    turn: usize,
}

impl Lanes {
    /// For these trees with limits, and all others.
    pub fn new(limited: Vec<(TreeId, Vec<Limit>)>) -> Lanes {
        let (trees, limits): (Vec<_>, Vec<_>) = limited.into_iter().unzip();
        let lanes = std::iter::once(Vec::new()).chain(limits).map(Lane::new);
        Lanes {
            lanes: lanes.collect(),
            trees,
            turn: 0,
        }
    }

    /// Whether any tree has a limit.
    pub fn are_limited(&self) -> bool {
        !self.trees.is_empty()
    }

    /// The content of an item is to be sent.
    pub fn push(&mut self, tree: TreeId, item: Item, want: Want) {
        let at = self.trees.iter().position(|t| *t == tree);
        self.lanes[at.map_or(0, |at| at + 1)]
            .waiting
            .push_back((item, want));
    }

    /// What is being sent of an item.
    pub fn content(&mut self, item: Item) -> Option<&mut Content> {
        let contents = self.lanes.iter_mut().filter_map(|l| l.content.as_mut());
        contents.into_iter().find(|c| c.item() == item)
    }

    /// It is this minute of the day; `lifted`: no limit holds.
    pub fn set_paces(&mut self, minute: u16, lifted: bool, now: u64) {
        for lane in &mut self.lanes {
            let pace = match lifted {
                true => Pace::Free,
                false => pace_at(&lane.limits, minute),
            };
            lane.meter.set_pace(pace, now);
        }
    }

    /// The lane whose turn it is. All that may send take turns.
    pub fn turn(&mut self, now: u64) -> Option<&mut Lane> {
        let count = self.lanes.len();
        let mut order = (0..count).map(|n| (self.turn + n) % count);
        let ready = |at: &usize| self.lanes[*at].ready_at().is_some_and(|ready| ready <= now);
        let at = order.find(ready)?;
        self.turn = at + 1;
        self.lanes.get_mut(at)
    }

    /// When there is something to send, if ever.
    pub fn ready_at(&self) -> Option<u64> {
        self.lanes.iter().filter_map(Lane::ready_at).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn item(batch: u64, index: u32) -> (Item, Want) {
        (Item { batch, index }, Want::Whole)
    }

    #[test]
    fn a_tree_with_a_limit_holds_up_no_other() {
        let (slow, fast) = (TreeId::of("slow"), TreeId::of("fast"));
        let pace = Pace::Rate(NonZeroU64::new(1000).unwrap());
        let limit = Limit {
            between: None,
            pace,
        };
        let mut lanes = Lanes::new(vec![(slow, vec![limit])]);
        assert_eq!(lanes.ready_at(), None);
        for index in 0..2 {
            lanes.push(slow, item(1, index).0, Want::Whole);
            lanes.push(fast, item(2, index).0, Want::Whole);
        }
        let now = 1_000_000_000;
        lanes.set_paces(0, false, now);
        let next = |lanes: &mut Lanes, now| {
            let lane = lanes.turn(now)?;
            let (item, _) = lane.next()?;
            lane.sent(now, 500);
            Some(item)
        };
        assert_eq!(next(&mut lanes, now), Some(item(2, 0).0));
        assert_eq!(next(&mut lanes, now), Some(item(1, 0).0), "in turn");
        assert_eq!(next(&mut lanes, now), Some(item(2, 1).0));
        assert_eq!(next(&mut lanes, now), None, "the limit");
        let ready = lanes.ready_at().unwrap();
        assert_eq!(ready, now + 400_000_000, "half a second, less a burst");
        lanes.set_paces(0, true, now);
        assert_eq!(next(&mut lanes, now), Some(item(1, 1).0), "lifted");
        assert_eq!(lanes.ready_at(), None);
    }
}
