//! The program in a folder of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A config that samples, with every default.
pub(crate) const ONLINE: &str = r#"[model]
path = "model"

[data]
train = "generated:addition"

[prompts.shuffle]
per_step = 4

[budget.rollouts.uniform]
mean = 8

[budget.tokens.fixed]
limit = 64

[rollout.discrete]
temperature = 1.0

[reward.math]

[advantage.group]

[objective.grpo]

[optim]
learning_rate = 1e-6
"#;

/// A temporary folder to run the program in.
pub(crate) struct Folder(TempDir);

/// What a run of the program left.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder for the file");
        std::fs::write(&path, text).expect("a file of the test");
        path
    }

    /// The shape of a small model, without weights.
    pub(crate) fn write_model(&self) {
        self.write(
            "model/config.json",
            r#"{"model_type": "llama", "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512,
                "vocab_size": 1000, "rms_norm_eps": 1e-5, "tie_word_embeddings": true}"#,
        );
    }

    /// Runs the program here, without colours, without the network and without a log.
    pub(crate) fn run(&self, arguments: &[&str]) -> Done {
        let output = Command::new(env!("CARGO_BIN_EXE_candlewick"))
            .args(arguments)
            .current_dir(self.path())
            .env("NO_COLOR", "1")
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", self.path().join("hub"))
            .env("XDG_CACHE_HOME", self.path().join("cache"))
            .env_remove("CANDLEWICK_LOG")
            .output()
            .expect("the program starts");
        Done {
            status: output.status.code().expect("the program ends by itself"),
            stdout: String::from_utf8(output.stdout).expect("output is UTF-8"),
            stderr: String::from_utf8(output.stderr).expect("errors are UTF-8"),
        }
    }

    /// Runs `check` on a config that must be refused: status 2, nothing on standard output.
    #[track_caller]
    pub(crate) fn refuses(&self, config: &str, more: &[&str]) -> String {
        self.write("run.toml", config);
        let done = self.run(&[&["check", "run.toml"], more].concat());
        assert_eq!((done.status, done.stdout.as_str()), (2, ""), "{}", done.stderr);
        done.stderr
    }
}
