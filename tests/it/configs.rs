//! Every file in `configs/` parses, fits together and resolves to itself.

use std::path::Path;

use candlewick::config::Config;

#[test]
fn every_config_fits_and_resolves_to_itself() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).expect("configs/ is there") {
        let path = entry.expect("configs/ can be read").path();
        if path.extension().is_none_or(|e| e != "toml") {
            continue;
        }
        let config = Config::load(&path, &[]).unwrap_or_else(|e| panic!("{e}")).config;
        let resolved = config.to_toml();
        let again =
            Config::parse("resolved.toml", &resolved, &[]).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        assert_eq!(again.config.to_toml(), resolved, "{}", path.display());
        count += 1;
    }
    assert!(count > 0, "no config in {}", folder.display());
}
