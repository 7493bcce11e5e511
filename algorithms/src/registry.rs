//! How a stage lists its variants: one line each, from which the config, its schema and `list` follow.

/// Declares a stage's externally tagged config enum.
///
/// Each line is `"name" => Variant(module::Struct)`, where `name` is the variant's name in the
/// config and its source file. The struct builds the stage: `fn build(&self) -> Result<Box<dyn Trait>>`.
/// The first line after `default` is what the stage is when the config does not name one.
macro_rules! variants {
    (
        $(#[$meta:meta])*
        pub enum $config:ident for $stage:ident {
            $( $name:literal => $variant:ident($($path:ident)::+), )+
        }
        default $default:ident
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        // A config is built once a run.
        #[allow(clippy::large_enum_variant)]
        pub enum $config {
            $(
                #[doc = concat!("`", $name, "`")]
                #[serde(rename = $name)]
                $variant($($path)::+),
            )+
        }

        impl $config {
            /// Names of the variants, as in the config.
            pub const VARIANTS: &'static [&'static str] = &[$($name),+];

            /// Name of this variant.
            pub fn variant(&self) -> &'static str {
                match self { $( Self::$variant(_) => $name, )+ }
            }

            /// The stage, once its settings are found possible.
            ///
            /// Errors: [`crate::Error::Config`] names the key, its value, the reason and the fix.
            pub fn build(&self) -> $crate::Result<Box<dyn $stage>> {
                match self { $( Self::$variant(settings) => settings.build(), )+ }
            }

            /// The variant of that name with its default settings.
            pub fn named(name: &str) -> Option<Self> {
                match name {
                    $( $name => Some(Self::$variant(Default::default())), )+
                    _ => None,
                }
            }
        }

        impl Default for $config {
            fn default() -> Self {
                Self::$default(Default::default())
            }
        }
    };
}

pub(crate) use variants;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every name in a stage's list has its source file, builds with its defaults, survives
    /// serialisation under its own name and is documented.
    #[test]
    fn names_have_files_defaults_and_documentation() {
        macro_rules! check {
            ($($config:ty => $folder:literal),+ $(,)?) => { $(
                for &name in <$config>::VARIANTS {
                    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join($folder);
                    assert!(
                        file.join(format!("{name}.rs")).is_file() || file.join(name).join("mod.rs").is_file(),
                        "{}/{name} has no source file", $folder
                    );
                    let config = <$config>::named(name).expect("a listed name is known");
                    assert_eq!(config.variant(), name);
                    config.build().unwrap_or_else(|e| panic!("{}.{name} does not build with its defaults: {e}", $folder));
                    let json = serde_json::to_value(&config).expect("a config serialises");
                    assert!(json.get(name).is_some(), "{name} is serialised under another name: {json}");
                    assert_eq!(serde_json::from_value::<$config>(json).expect("and back"), config);
                    let misspelt = serde_json::json!({ name: { "no_such_key": 1 } });
                    let error = serde_json::from_value::<$config>(misspelt).expect_err("unknown keys are refused");
                    assert!(error.to_string().contains("no_such_key"), "{error}");
                    let schema = serde_json::to_string(&schemars::schema_for!($config)).expect("a schema serialises");
                    let schema_json: serde_json::Value = serde_json::from_str(&schema).expect("a schema is JSON");
                    for (part, definition) in schema_json["$defs"].as_object().expect("settings are definitions") {
                        let text = definition["description"].as_str().unwrap_or_default();
                        assert!(text.len() > 20, "{}: {part} has no documentation for `explain`", $folder);
                    }
                    assert!(schema.contains(&format!("\"{name}\"")), "{name} is not in the schema");
                }
                assert!(<$config>::VARIANTS.contains(&<$config>::default().variant()));
                assert!(<$config>::named("no_such_variant").is_none());
            )+ };
        }
        check! {
            crate::prompts::PromptsConfig => "prompts",
            crate::budget::rollouts::RolloutsConfig => "budget/rollouts",
            crate::budget::tokens::TokensConfig => "budget/tokens",
            crate::advantage::AdvantageConfig => "advantage",
            crate::credit::CreditConfig => "credit",
            crate::objective::ObjectiveConfig => "objective",
        }
    }
}
