//! The kernel, the links and the disk: what becomes of the machine's effects.

use super::*;

impl World {
    pub(in crate::machine::pair_tests) fn carry_out(&mut self, node: usize, effect: Effect) {
        let other = 1 - node;
        match effect {
            Effect::SendHeartbeat(heartbeat) => self.send(node, &heartbeat),
            Effect::Persist {
                generation,
                durable,
            } => self.persist(node, generation, durable),
            Effect::AddAddresses { ticket } => {
                self.may_act(node);
                self.nodes[node].addresses = true;
                self.result(
                    node,
                    MS,
                    Input::AddressesDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::RemoveAddresses { ticket } => {
                self.nodes[node].addresses = false;
                self.result(
                    node,
                    MS,
                    Input::AddressesDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::RefreshAddresses => {
                self.may_act(node);
                self.nodes[node].addresses = true;
            }
            Effect::Announce { .. } => {
                self.may_act(node);
                if self.nodes[node].public {
                    self.arp_owner = Some(node);
                }
            }
            Effect::Fence { ticket } => {
                self.nodes[node].fenced = true;
                self.result(
                    node,
                    MS,
                    Input::FenceDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::Unfence { ticket } => {
                self.nodes[node].fenced = false;
                self.result(
                    node,
                    MS,
                    Input::FenceDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::FencePeer { ticket } => {
                self.power_cut(other);
                self.result(
                    node,
                    MS,
                    Input::PeerFenced {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::ProbePeer { ticket, within } => self.probe_peer(node, ticket, within),
            Effect::ProbeConflict { ticket, within } => self.probe_conflict(node, ticket, within),
            Effect::Data { ticket, command } => self.data_command(node, ticket, command),
            Effect::Services { ticket, command } => {
                match command {
                    ServiceCommand::Start => self.nodes[node].services = true,
                    ServiceCommand::Stop => self.nodes[node].services = false,
                    ServiceCommand::Freeze | ServiceCommand::Thaw => {}
                }
                self.result(
                    node,
                    20 * MS,
                    Input::ServicesDone {
                        ticket,
                        result: Ok(()),
                    },
                );
            }
            Effect::Notify(notice) => self.notices.push((self.now, node, notice)),
            Effect::Record(decision) => self.decisions.push((self.now, node, *decision)),
            Effect::Answer { ticket, result } => self.answers.push((ticket, result)),
            Effect::Exit => {
                self.nodes[node].exited = true;
                self.kill_agent(node);
            }
        }
    }

    pub(in crate::machine::pair_tests) fn send(&mut self, node: usize, heartbeat: &Heartbeat) {
        let other = 1 - node;
        // Through the real bytes.
        let bytes = crate::heartbeat::encode(PAIR, self.policy[node].own, heartbeat, |_| [0; 64])
            .expect("a heartbeat fits");
        let (_, heartbeat) =
            crate::heartbeat::decode(PAIR, &bytes, |_, _, _| Some(true)).expect("it comes back");
        let link = usize::from(heartbeat.link);
        let copies = 1 + u64::from(self.loss_percent > 0 && self.dice.roll(10) == 0);
        for _ in 0..copies {
            let lost = self.dice.roll(100) < self.loss_percent;
            let up = self.link[node][link]
                && (link == 0 || (self.nodes[0].public && self.nodes[1].public));
            if lost || !up || self.nodes[other].machine.is_none() {
                continue;
            }
            let jitter = if self.loss_percent > 0 { 300 * MS } else { MS };
            let delay = MS / 5 + self.dice.roll(jitter);
            let input = Input::Heartbeat {
                link: link as u8,
                heartbeat: Box::new(heartbeat.clone()),
            };
            self.result(other, delay, input);
        }
    }

    fn persist(&mut self, node: usize, generation: u64, durable: Box<Durable>) {
        // One write after the other, as the driver does it.
        let took = MS + self.dice.roll(5 * MS);
        let done = self.nodes[node].disk_free.max(self.now) + took;
        self.nodes[node].disk_free = done;
        let life = self.nodes[node].life;
        let event = Event::Written {
            node,
            life,
            generation,
            durable,
        };
        self.later(done - self.now, event);
    }

    fn probe_peer(&mut self, node: usize, ticket: Ticket, within: Duration) {
        let other = 1 - node;
        let public = self.nodes[node].public && self.nodes[other].public;
        let ways = (0..2).any(|l| self.link[node][l] && self.link[other][l]);
        let kernel = self.nodes[other].host_up && (ways || public);
        let service = public
            && self.serves(other)
            && self.nodes[other].services
            && !self.nodes[other].service_broken;
        let answers = ProbeAnswers {
            asked: true,
            floating: false,
            icmp: kernel,
            arp: kernel,
            tcp: kernel,
            service,
            network: if self.nodes[node].public {
                Health::Good
            } else {
                Health::Bad
            },
        };
        let delay = if answers.any() {
            MS
        } else {
            within.as_nanos() as u64
        };
        self.result(node, delay, Input::ProbeDone { ticket, answers });
    }

    fn probe_conflict(&mut self, node: usize, ticket: Ticket, within: Duration) {
        let other = 1 - node;
        let public = self.nodes[node].public && self.nodes[other].public;
        let answered = public && self.serves(other);
        let delay = if answered {
            MS
        } else {
            within.as_nanos() as u64
        };
        self.result(
            node,
            delay,
            Input::ConflictDone {
                ticket,
                answered: Ok(answered),
            },
        );
    }
}
