//! Orders to the helper threads: given without waiting, or answered as failed at once.

use super::Running;
use crate::driver::{Decide, net, questions};
use crate::input::{Input, ProbeAnswers};
use tokio::sync::mpsc::error::TrySendError;

impl<D: Decide> Running<D> {
    pub(super) fn order(&mut self, order: net::Order) {
        let (order, why) = match self.net.try_send(order) {
            Ok(()) => return,
            Err(TrySendError::Full(order)) => (order, "too many requests wait for the kernel"),
            Err(TrySendError::Closed(order)) => (order, "the network thread has ended"),
        };
        tracing::error!(?order, why, "order not given");
        let result = Err(why.to_owned());
        match order {
            net::Order::Add(ticket) | net::Order::Remove(ticket) => {
                self.immediate
                    .push_back(Input::AddressesDone { ticket, result });
            }
            net::Order::Fence(ticket) | net::Order::Unfence(ticket) => {
                self.immediate
                    .push_back(Input::FenceDone { ticket, result });
            }
            // Repeated by the machine anyway, or by the next reload.
            net::Order::Refresh | net::Order::Announce { .. } | net::Order::Setup { .. } => {}
        }
    }

    pub(super) fn ask(&mut self, order: questions::Order) {
        let (order, why) = match self.questions.try_send(order) {
            Ok(()) => return,
            Err(TrySendError::Full(order)) => (order, "too many questions are under way"),
            Err(TrySendError::Closed(order)) => (order, "the asking thread has ended"),
        };
        tracing::error!(?order, why, "question not put");
        match order {
            // An unasked round must not look like silence.
            questions::Order::Peer { ticket, .. } => {
                let answers = ProbeAnswers::default();
                self.immediate
                    .push_back(Input::ProbeDone { ticket, answers });
            }
            questions::Order::Conflict { ticket, .. } => {
                self.immediate.push_back(Input::ConflictDone {
                    ticket,
                    answered: Err(why.to_owned()),
                });
            }
            questions::Order::FencePeer(ticket) => {
                let result = Err(why.to_owned());
                self.immediate
                    .push_back(Input::PeerFenced { ticket, result });
            }
            questions::Order::Setup(_) => {}
        }
    }
}
