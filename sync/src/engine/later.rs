//! Commands whose engine side is still being built. Each refuses.

use super::error::CommandError;
use super::handle::Engine;
use super::report::VerifyReport;
use std::time::Duration;

#[allow(missing_docs)]
impl Engine {
    pub async fn hold(&self) -> Result<(), CommandError> {
        Err(CommandError::Spool("not built yet".into()))
    }
    pub async fn release_hold(&self, _within: Duration) -> Result<(), CommandError> {
        Ok(())
    }
    pub async fn end_hold(&self, _within: Duration) -> Result<(), CommandError> {
        Ok(())
    }
    pub async fn adopt(&self) -> Result<(), CommandError> {
        Err(CommandError::Index("not built yet".into()))
    }
    pub async fn verify(
        &self,
        _tree: Option<&str>,
        _repair: bool,
    ) -> Result<VerifyReport, CommandError> {
        Err(CommandError::Index("not built yet".into()))
    }
}
