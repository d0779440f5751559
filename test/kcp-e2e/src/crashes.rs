//! Ending the provider at its named steps: an undisturbed run tells which there are, and the same is done again for each.

use std::{collections::HashSet, env};

use anyhow::{Context as _, Result, bail};

use crate::installation::Installation;

/// The steps at which to kill: all of them takes minutes, so without `OPENKCM_CRASH_STEPS` those that are named.
pub fn chosen<'a>(steps: &'a [String], named: &[&str]) -> Vec<&'a str> {
    let all = env::var_os("OPENKCM_CRASH_STEPS").is_some();
    steps.iter().map(String::as_str).filter(|step| all || named.contains(step)).collect()
}

impl Installation {
    /// The steps since [`Self::forget_steps`] that begin with one of these, each once, in the order in which they were passed first.
    pub fn steps_of(&self, ours: &[&str]) -> Vec<String> {
        let mut seen = HashSet::new();
        let ours = |step: &String| ours.iter().any(|of| step.starts_with(of));
        self.steps().into_iter().filter(ours).filter(|step| seen.insert(step.clone())).collect()
    }

    /// Lets the provider die at these points: at the first while it does what `ask` asks for, at the others in the restarts that
    /// follow. It is dead then, for whoever wants to look at what it left.
    pub async fn dies_at(&mut self, points: &[&str], ask: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
        let [first, later @ ..] = points else { bail!("it is to die nowhere") };
        self.crash_at(first)?;
        ask().await?;
        self.provider_died(first).await?;
        for point in later {
            self.crash_at(point)?;
            // It may die before it is ready.
            let _ = self.start_provider().await;
            self.provider_died(point).await.context("in the restart")?;
        }
        Ok(())
    }
}
