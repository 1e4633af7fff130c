//! Events of the kernel, and what follows from them.

use super::Worker;
use crate::address::events::{Event, Events};
use std::time::Duration;

/// Pause before a failed event socket is opened again.
const REOPEN: Duration = Duration::from_secs(1);

/// An event socket that is opened again when it fails. A gap looks like lost events.
pub(super) struct Source {
    events: Option<Events>,
    failed: bool,
}

impl Source {
    pub(super) fn new() -> Self {
        Self {
            events: None,
            failed: false,
        }
    }

    /// The next event. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(events) = &mut self.events {
                match events.next().await {
                    Ok(event) => return event,
                    Err(error) => {
                        tracing::warn!(%error, "kernel events failed, opening them again");
                        self.events = None;
                        self.failed = true;
                    }
                }
            }
            if self.failed {
                tokio::time::sleep(REOPEN).await;
            }
            match Events::open() {
                Ok(events) => {
                    self.events = Some(events);
                    self.failed = false;
                    // What happened before the socket was open is not told by it.
                    return Event::Overrun;
                }
                Err(error) => {
                    tracing::warn!(%error, "kernel events cannot be opened");
                    self.failed = true;
                }
            }
        }
    }
}

impl Worker {
    pub(super) async fn take(&mut self, event: Event) {
        match event {
            Event::Link(interface) => {
                self.interfaces.put(interface);
                self.show_carriers();
            }
            Event::LinkGone(interface) => {
                self.interfaces.remove(interface.index);
                self.show_carriers();
            }
            Event::AddressGone(changed) | Event::AddressPresent(changed) => {
                // It may be otherwise again meanwhile: the list says, not the event.
                if self.addresses.iter().any(|a| a.address == changed.address) {
                    self.look().await;
                }
            }
            Event::Overrun => {
                self.list_devices().await;
                self.look().await;
            }
        }
    }
}
