//! The local API on a replica. What is for the nodes of the pair says so.

use super::Replica;
use crate::api::server::{Answer, Backend, Lines};
use crate::api::types::{self, ApiError, ErrorCode, Role};
use crate::daemon::backend::{self, answer, engine_error};
use std::fs::File;
use std::sync::Arc;

/// The replica as the API server sees it.
pub(super) struct Api(pub Arc<Replica>);

fn pairs_only<'a, T: Send + 'a>(what: &'static str) -> Answer<'a, T> {
    let text = format!(
        "this machine is a replica: `{what}` is for the two nodes of the pair, run it there"
    );
    Box::pin(async move { Err(ApiError::new(ErrorCode::WrongRole, text)) })
}

impl Replica {
    async fn adopt(&self, request: types::AdoptRequest) -> Result<types::Done, ApiError> {
        if !request.force {
            let text = "adopt forgets what is known of the pair's history: confirm it";
            return Err(ApiError::new(ErrorCode::BadRequest, text));
        }
        self.engine.adopt().await.map_err(|e| engine_error(&e))?;
        Ok(types::Done {
            message:
                "the master's data are taken as the truth: what differs here goes to the rescue"
                    .to_owned(),
        })
    }
}

impl Backend for Api {
    fn status(&self) -> Answer<'_, types::StatusReport> {
        answer!(Ok(self.0.status_report()))
    }

    fn role(&self) -> Answer<'_, types::RoleReport> {
        answer!(Ok(types::RoleReport {
            role: Role::Replica,
            term: 0,
            node: self.0.name(),
        }))
    }

    fn init(&self, _: types::InitRequest) -> Answer<'_, types::InitReport> {
        pairs_only("tandem init")
    }

    fn failback(&self, _: types::Empty) -> Answer<'_, Lines<types::MoveEvent>> {
        pairs_only("tandem failback")
    }

    fn switchover(&self, _: types::Empty) -> Answer<'_, Lines<types::MoveEvent>> {
        pairs_only("tandem switchover")
    }

    fn takeover_price(&self) -> Answer<'_, types::TakeoverPrice> {
        pairs_only("tandem takeover")
    }

    fn takeover(&self, _: types::TakeoverRequest) -> Answer<'_, Lines<types::MoveEvent>> {
        pairs_only("tandem takeover")
    }

    fn flush(&self, _: types::FlushRequest) -> Answer<'_, types::FlushReport> {
        pairs_only("tandem flush")
    }

    fn hold(&self, _: types::HoldRequest) -> Answer<'_, Lines<types::HoldEvent>> {
        pairs_only("tandem hold")
    }

    fn verify(&self, _: types::VerifyRequest) -> Answer<'_, Lines<types::VerifyEvent>> {
        pairs_only("tandem verify")
    }

    fn accept(&self, request: types::AcceptRequest) -> Answer<'_, types::Done> {
        answer!(backend::accept(&self.0.engine, &request).await)
    }

    fn accept_price(&self, request: types::AcceptPriceRequest) -> Answer<'_, types::AcceptPrice> {
        answer!(backend::accept_price(&self.0.engine, self.0.name(), &request).await)
    }

    fn adopt(&self, request: types::AdoptRequest) -> Answer<'_, types::Done> {
        answer!(self.0.adopt(request).await)
    }

    fn rescue_list(&self) -> Answer<'_, types::RescueList> {
        answer!(self.0.rescue().list().await)
    }

    fn rescue_show(
        &self,
        request: types::RescueShowRequest,
    ) -> Answer<'_, Lines<types::RescueItem>> {
        answer!(self.0.rescue().show(request).await)
    }

    fn rescue_file(&self, request: types::RescueFileRequest) -> Answer<'_, File> {
        answer!(self.0.rescue().file(request).await)
    }

    fn rescue_restore(&self, _: types::RestoreRequest) -> Answer<'_, Lines<types::RestoreEvent>> {
        let text = "a replica puts nothing back into the pair's trees: `tandem rescue list` shows where the files lie, \
                    copy them to the master";
        answer!(Err(ApiError::new(ErrorCode::WrongRole, text)))
    }

    fn trash_list(&self, request: types::TrashListRequest) -> Answer<'_, Lines<types::TrashEvent>> {
        answer!(self.0.trash().list(request).await)
    }

    fn trash_restore(
        &self,
        _: types::TrashRestoreRequest,
    ) -> Answer<'_, Lines<types::RestoreEvent>> {
        let text = "a replica puts nothing back into the pair's trees: its trash is .tandem/trash below the root of the tree, \
                    copy the files to the master";
        answer!(Err(ApiError::new(ErrorCode::WrongRole, text)))
    }

    fn trash_empty(&self, request: types::TrashEmptyRequest) -> Answer<'_, types::Done> {
        answer!(self.0.trash().empty(request).await)
    }

    fn rescue_drop(&self, request: types::RescueSelection) -> Answer<'_, types::Done> {
        answer!(self.0.rescue().drop(request).await)
    }

    fn maintenance(&self, _: types::MaintenanceRequest) -> Answer<'_, types::Done> {
        pairs_only("tandem maintenance")
    }

    fn restart(&self) -> Answer<'_, types::Done> {
        answer!(self.0.restart().await)
    }

    fn reload(&self) -> Answer<'_, types::ReloadReport> {
        answer!(self.0.reload().await)
    }
}
