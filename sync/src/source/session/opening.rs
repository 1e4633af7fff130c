//! How a session begins on the source: its Hello, and the replica's answer to it.

use super::ended;
use crate::engine::shared::{Shared, floors, heads};
use crate::engine::stream::Channel;
use crate::engine::{Mode, SessionEnd, SessionError};
use crate::source::books::Books;
use crate::wire::{Accept, End, Hello, Message};
use std::sync::Arc;
use std::time::Duration;

/// How long the source waits for a word of the replica while that prepares itself; it says `Wait` every second.
const PATIENCE: Duration = Duration::from_secs(15);

/// Says Hello. Returns the replica's answer, or why there is none.
pub(super) async fn agree(
    shared: &Arc<Shared>,
    books: &mut Books,
    channel: &mut Channel,
) -> Result<Result<Accept, SessionEnd>, SessionError> {
    let heads = heads(shared).map_err(|e| SessionError::Local(e.to_string()))?;
    let heads = books.shown(heads);
    let floors = floors(shared, |tree| books.gets(tree));
    let hello = Hello {
        end: End::Source,
        pair: shared.config.pair.clone(),
        heads,
        floors: floors.map_err(|e| SessionError::Local(e.to_string()))?,
    };
    if channel.outgoing.send(Message::Hello(hello)).await.is_err() {
        return Ok(Err(SessionEnd::PeerClosed));
    }
    accepted(shared, channel).await
}

/// Waits for the replica's Hello and its answer.
async fn accepted(
    shared: &Arc<Shared>,
    channel: &mut Channel,
) -> Result<Result<Accept, SessionEnd>, SessionError> {
    let mut mode = shared.mode.subscribe();
    loop {
        let next = tokio::select! {
            biased;
            changed = mode.wait_for(|m| !matches!(m, Mode::Source { .. })) => {
                drop(changed);
                return Ok(Err(SessionEnd::RoleChanged));
            }
            next = tokio::time::timeout(PATIENCE, channel.incoming.recv()) => next,
        };
        match next.map_err(|_| SessionError::Silent(PATIENCE, "preparing to receive"))? {
            Some(Ok(Message::Hello(hello)))
                if hello.end == End::Replica && hello.pair == shared.config.pair => {}
            Some(Ok(Message::Hello(_))) => {
                return Err(SessionError::Protocol(
                    "a Hello of another pair or role".into(),
                ));
            }
            Some(Ok(Message::Wait)) => {}
            Some(Ok(Message::Accept(accept))) => return Ok(Ok(accept)),
            Some(Ok(Message::Refuse(refuse))) => {
                return Ok(Err(SessionEnd::Refused {
                    why: refuse.why,
                    retry: refuse.retry,
                }));
            }
            Some(Ok(_)) => return Err(SessionError::Protocol("a message before Accept".into())),
            other => return ended(other).map(Err),
        }
    }
}
