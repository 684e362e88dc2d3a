//! Why a system makes no network for a program, and what to do.

use std::path::Path;

/// The first known reason.
pub(crate) fn obstacle() -> Option<String> {
    obstacle_in(Path::new("/proc/sys"))
}

fn obstacle_in(settings: &Path) -> Option<String> {
    for (setting, forbidding, who) in SETTINGS {
        let value = std::fs::read_to_string(settings.join(setting.replace('.', "/")));
        if value.is_ok_and(|value| value.trim() == forbidding) {
            let mended = if forbidding == "1" { "0" } else { "1" };
            let mended = if setting.starts_with("user.max") { "10000" } else { mended };
            return Some(format!(
                "{who} forbids programs to have a network of their own ({setting} = {forbidding}), so the program \
                 was not started; allow it as administrator: sysctl -w {setting}={mended}"
            ));
        }
    }
    None
}

const SETTINGS: [(&str, &str, &str); 4] = [
    ("kernel.unprivileged_userns_clone", "0", "this system"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
    ("user.max_user_namespaces", "0", "this system"),
    ("user.max_net_namespaces", "0", "this system"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_setting_that_forbids_is_named_with_its_cure() {
        let folder = tempfile::tempdir().unwrap();
        for part in ["kernel", "user"] {
            std::fs::create_dir(folder.path().join(part)).unwrap();
        }
        assert_eq!(obstacle_in(folder.path()), None);
        for (setting, forbidding, allowing) in [
            ("kernel.unprivileged_userns_clone", "0\n", "1"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1\n", "0"),
            ("user.max_user_namespaces", "0\n", "10000"),
        ] {
            let path = folder.path().join(setting.replace('.', "/"));
            std::fs::write(&path, forbidding).unwrap();
            let text = obstacle_in(folder.path()).unwrap();
            assert!(text.contains(&format!("sysctl -w {setting}={allowing}")), "{text}");
            std::fs::write(&path, allowing).unwrap();
            assert_eq!(obstacle_in(folder.path()), None);
        }
    }
}
