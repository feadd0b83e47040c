//! Whether the system can show file dialogs.

use std::path::PathBuf;

use crate::base::UserError;

/// On Linux dialogs come from the desktop over D-Bus, or from zenity; without both, asking would just return nothing.
pub(super) fn missing() -> Option<UserError> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let bus = set("DBUS_SESSION_BUS_ADDRESS")
        || std::env::var_os("XDG_RUNTIME_DIR").is_some_and(|folder| PathBuf::from(folder).join("bus").exists());
    let path = std::env::var_os("PATH").unwrap_or_default();
    let zenity = std::env::split_paths(&path).any(|folder| folder.join("zenity").exists());
    (cfg!(target_os = "linux") && !bus && !zenity).then(|| {
        UserError::new(
            "There are no file dialogs here",
            "neither a desktop session (D-Bus) nor zenity was found",
            "Drop a picture on the window, name it on the command line, or install zenity.",
        )
    })
}
