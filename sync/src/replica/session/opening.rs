//! How a session begins on the replica: whom it follows, what is here already, and from where it is to be sent.

use super::ended;
use crate::engine::command::Command;
use crate::engine::prepare::Prepared;
use crate::engine::shared::{Shared, heads};
use crate::engine::stream::Channel;
use crate::engine::{Mode, SessionEnd, SessionError, clock};
use crate::lineage::{NodeHeads, left_behind};
use crate::tree::{Part, TreeId};
use crate::wire::{Accept, End, Hello, Message, Refuse};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long the replica waits for the source's Hello: it comes at once.
const HELLO: Duration = Duration::from_secs(10);

/// What both ends have agreed on.
pub(super) struct Agreed {
    /// By which the worker knows this session's batches.
    pub number: u64,
    /// The highest sequence number that is believed of the source.
    pub highest: u64,
    /// The source, with the trees that come: a tree that does not come with this session does not advance with it either.
    pub source: NodeHeads,
    /// These trees.
    pub trees: Vec<TreeId>,
}

/// Hears the source's Hello and answers it.
pub(super) async fn agree(
    shared: &Arc<Shared>,
    own: CancellationToken,
    mut channel: Channel,
) -> Result<Result<(Channel, Agreed), SessionEnd>, SessionError> {
    let hello = tokio::time::timeout(HELLO, channel.incoming.recv()).await;
    let hello = match hello.map_err(|_| SessionError::Silent(HELLO, "beginning"))? {
        Some(Ok(Message::Hello(hello))) => hello,
        Some(Ok(_)) => return Err(SessionError::Protocol("a message before Hello".into())),
        other => return ended(other).map(Err),
    };
    let mine = heads(shared).map_err(|e| SessionError::Local(e.to_string()))?;
    let highest = match may_follow(shared, &mine, &hello) {
        Ok(highest) => highest,
        Err(refuse) => return Ok(Err(refused(channel, refuse).await)),
    };
    // Of two sessions the newer one counts: the peer knows why it dialled again.
    shared.only_session(own);
    let answer = Hello {
        end: End::Replica,
        pair: shared.config.pair.clone(),
        heads: mine,
        floors: Vec::new(),
    };
    if channel.outgoing.send(Message::Hello(answer)).await.is_err() {
        return Ok(Err(SessionEnd::PeerClosed));
    }
    let number = shared.sessions.fetch_add(1, Ordering::Relaxed);
    let prepared = match prepare(shared, number, &mut channel, &hello).await? {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(refuse)) => return Ok(Err(refused(channel, refuse).await)),
        Err(end) => return Ok(Err(end)),
    };
    let trees: Vec<TreeId> = prepared.from.iter().map(|(tree, _)| *tree).collect();
    let accept = Message::Accept(Accept {
        from: prepared.from,
        inline: prepared.inline,
        stamp: clock::now(),
    });
    if channel.outgoing.send(accept).await.is_err() {
        return Ok(Err(SessionEnd::PeerClosed));
    }
    let agreed = Agreed {
        number,
        highest,
        source: hello.heads.only(|tree| trees.contains(&tree)),
        trees,
    };
    Ok(Ok((channel, agreed)))
}

/// Whether the source may be followed, and the highest sequence number that is believed of it.
fn may_follow(shared: &Shared, mine: &NodeHeads, hello: &Hello) -> Result<u64, Refuse> {
    let never = |why: &str| Refuse {
        why: why.into(),
        retry: false,
    };
    if hello.end != End::Source || hello.pair != shared.config.pair {
        return Err(never("a Hello of another pair or role"));
    }
    let highest = mine.believes(&hello.heads).ok_or_else(|| {
        never("the source's sequence number is far beyond what is here: check it, then `tandem adopt` on the receiver")
    })?;
    match follows_a_later_one(shared, mine, &hello.heads) {
        Some(refuse) => Err(refuse),
        None => Ok(highest),
    }
}

/// Says why, and ends.
async fn refused(channel: Channel, refuse: Refuse) -> SessionEnd {
    let end = SessionEnd::Refused {
        why: refuse.why.clone(),
        retry: refuse.retry,
    };
    // Whoever is gone needs no reason.
    let _ = channel.outgoing.send(Message::Refuse(refuse)).await;
    channel.finish().await;
    end
}

/// A replica is sent to by whoever believes to be master. It does not turn back to one that the pair went on without, and
/// that one's attempt does not disturb the session that there is.
fn follows_a_later_one(shared: &Shared, mine: &NodeHeads, theirs: &NodeHeads) -> Option<Refuse> {
    let stale = match shared.config.part {
        Part::Replica => left_behind(mine, theirs)?,
        Part::Node { .. } => return None,
    };
    let trees = shared.trees();
    let name = trees.iter().find(|t| t.id() == stale).map(|t| &t.name)?;
    Some(Refuse {
        why: format!("tree {name}: this replica follows a later master"),
        retry: true,
    })
}

/// Has the worker classify what is here, and keeps the source waiting meanwhile.
async fn prepare(
    shared: &Arc<Shared>,
    session: u64,
    channel: &mut Channel,
    hello: &Hello,
) -> Result<Result<Result<Prepared, Refuse>, SessionEnd>, SessionError> {
    let answer = shared.ask(|reply| Command::Prepare {
        session,
        theirs: hello.heads.clone(),
        floors: hello.floors.clone(),
        reply,
    });
    let mut answer = std::pin::pin!(answer);
    let mut mode = shared.mode.subscribe();
    loop {
        tokio::select! {
            biased;
            () = channel.cancel.cancelled() => return Ok(Err(SessionEnd::Cancelled)),
            changed = mode.wait_for(|m| *m != Mode::Replica) => {
                drop(changed);
                return Ok(Err(SessionEnd::RoleChanged));
            }
            prepared = &mut answer => {
                return prepared.map(Ok).map_err(|e| SessionError::Local(e.to_string()));
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {
                if channel.outgoing.send(Message::Wait).await.is_err() {
                    return Ok(Err(SessionEnd::PeerClosed));
                }
            }
        }
    }
}
