//! The server that writes prompts, as it is entered in the panel and tried from there.

use super::Viewer;
use crate::base::{Folders, ServerAddress, ServerEndpoint, ServerKey};
use crate::engine::ServerTrial;
use crate::hub;

/// What is in the panel of it beside the settings.
#[derive(Debug, Default)]
pub struct ServerForm {
    /// As it is being typed; nothing while it is as in the settings.
    pub address: Option<String>,
    /// Why what was typed is no address.
    pub problem: Option<String>,
    /// It is being tried.
    pub is_trying: bool,
    /// What came of it.
    pub trial: Option<ServerTrial>,
}

impl Viewer {
    /// This server is asked from now on, with the key that was kept for it.
    pub(super) fn use_server(&mut self, address: &str) {
        let address: ServerAddress = match address.parse() {
            Ok(address) => address,
            Err(problem) => {
                self.state.server.problem = Some(problem);
                return;
            }
        };
        self.stop_trying_server();
        self.state.server = ServerForm::default();
        let server = &mut self.state.settings.server;
        if address.is_same_server(&server.address) {
            server.address = address;
            return;
        }
        // What another one has written is not this one's.
        self.state.extracted_prompt.clear();
        let folders = Folders::of_user().filter(|_| self.state.keeps_settings);
        let key = folders.map(|folders| hub::server_key(&folders.server_key_file(), &address));
        *server = ServerEndpoint { address, model: String::new(), key: key.unwrap_or_default() };
    }

    /// Its key, as it is typed.
    pub(super) fn use_server_key(&mut self, key: &ServerKey) {
        self.state.settings.server.key.clone_from(key);
        self.state.server.trial = None;
    }

    /// Finds out what is there.
    pub(super) fn try_server(&mut self) {
        self.state.server.is_trying = true;
        self.state.server.trial = None;
        self.tasks.try_server(hub::with_key(self.state.settings.server.clone()), self.server_trial.start());
    }

    /// Nobody wants to know any more.
    pub(super) fn stop_trying_server(&mut self) {
        self.server_trial.clear();
        self.state.server.is_trying = false;
    }

    pub(super) fn take_server_trial(&mut self, generation: u64, trial: ServerTrial) {
        if self.server_trial.finish(generation) {
            self.state.server.is_trying = false;
            self.state.server.trial = Some(trial);
        }
    }
}
