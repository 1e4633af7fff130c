//! The types of the local API, version 1.
//!
//! Rules of compatibility: within a version fields and enum values are only added. A reader ignores fields that it
//! does not know and reads an unknown enum value as `Unknown`. Durations are whole milliseconds (`*_ms`), moments are
//! milliseconds since 1970 (`*_unix_ms`). A path of a file is text in which bytes that are not printable UTF-8 are
//! escaped as `\xNN` and a backslash as `\\`, so that it can be read back; a request names files by number, or by such a text.

mod command;
mod error;
mod event;
mod rescue;
mod status;
mod trash;
mod tree;

pub use command::*;
pub use error::*;
pub use event::*;
pub use rescue::*;
pub use status::*;
pub use trash::*;
pub use tree::*;

/// Version of the API, and the first component of each path.
pub const API_VERSION: u32 = 1;

/// The paths, so that the server and the client cannot disagree.
pub mod path {
    /// GET: [`super::StatusReport`].
    pub const STATUS: &str = "/v1/status";
    /// GET: [`super::RoleReport`].
    pub const ROLE: &str = "/v1/role";
    /// POST [`super::InitRequest`]: [`super::InitReport`].
    pub const INIT: &str = "/v1/init";
    /// POST [`super::Empty`]: lines of [`super::MoveEvent`].
    pub const FAILBACK: &str = "/v1/failback";
    /// POST [`super::Empty`]: lines of [`super::MoveEvent`].
    pub const SWITCHOVER: &str = "/v1/switchover";
    /// GET: [`super::TakeoverPrice`]. POST [`super::TakeoverRequest`]: lines of [`super::MoveEvent`].
    pub const TAKEOVER: &str = "/v1/takeover";
    /// POST [`super::FlushRequest`]: [`super::FlushReport`].
    pub const FLUSH: &str = "/v1/flush";
    /// POST [`super::HoldRequest`]: lines of [`super::HoldEvent`]. The hold ends when the connection does.
    pub const HOLD: &str = "/v1/hold";
    /// POST [`super::VerifyRequest`]: lines of [`super::VerifyEvent`].
    pub const VERIFY: &str = "/v1/verify";
    /// POST [`super::AcceptRequest`]: [`super::Done`].
    pub const ACCEPT: &str = "/v1/tree/accept";
    /// POST [`super::AcceptPriceRequest`]: [`super::AcceptPrice`].
    pub const ACCEPT_PRICE: &str = "/v1/tree/accept/price";
    /// POST [`super::AdoptRequest`]: [`super::Done`].
    pub const ADOPT: &str = "/v1/adopt";
    /// GET: [`super::RescueList`].
    pub const RESCUE: &str = "/v1/rescue";
    /// POST [`super::RescueShowRequest`]: lines of [`super::RescueItem`].
    pub const RESCUE_SHOW: &str = "/v1/rescue/show";
    /// POST [`super::RescueFileRequest`]: the bytes of one rescued file.
    pub const RESCUE_FILE: &str = "/v1/rescue/file";
    /// POST [`super::RestoreRequest`]: lines of [`super::RestoreEvent`].
    pub const RESCUE_RESTORE: &str = "/v1/rescue/restore";
    /// POST [`super::RescueSelection`]: [`super::Done`].
    pub const RESCUE_DROP: &str = "/v1/rescue/drop";
    /// POST [`super::TrashListRequest`]: lines of [`super::TrashEvent`].
    pub const TRASH: &str = "/v1/trash";
    /// POST [`super::TrashRestoreRequest`]: lines of [`super::RestoreEvent`].
    pub const TRASH_RESTORE: &str = "/v1/trash/restore";
    /// POST [`super::TrashEmptyRequest`]: [`super::Done`].
    pub const TRASH_EMPTY: &str = "/v1/trash/empty";
    /// POST [`super::MaintenanceRequest`]: [`super::Done`].
    pub const MAINTENANCE: &str = "/v1/maintenance";
    /// POST [`super::Empty`]: [`super::Done`], and then the agent executes itself again.
    pub const RESTART: &str = "/v1/restart";
    /// POST [`super::Empty`]: [`super::ReloadReport`].
    pub const RELOAD: &str = "/v1/reload";
}
