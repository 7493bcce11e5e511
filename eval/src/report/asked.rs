//! Whether two models were asked alike: a difference between them may come from how they were asked.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Entry, Identity, Protocol};

/// How a model was asked, as far as a comparison depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The protocol of the benchmark.
    pub protocol: &'a Protocol,
    /// Samples a problem.
    pub samples: usize,
    /// Hash of the chat template, which may word the same messages otherwise.
    pub template: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// As a report's entry says.
    pub fn of(identity: &'a Identity, entry: &'a Entry) -> Self {
        let template = identity.template_sha256.as_deref();
        Self { protocol: &entry.protocol, samples: entry.results.samples, template }
    }

    /// What differs from `other`, each as `temperature 1, not 0`; nothing if both were asked alike.
    ///
    /// Seeds, devices and chat templates may differ: the first two change no expectation, the last belongs to the model.
    /// The words of the first prompt count where no template stands between, or both have the same.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (own, theirs) = (self.protocol, other.protocol);
        let mut found = Differences(Vec::new());
        let names: BTreeSet<&String> = own.sampling.keys().chain(theirs.sampling.keys()).collect();
        for name in names {
            let value = |protocol: &Protocol| match (protocol.sampling.get(name), name.as_str()) {
                (Some(Value::String(text)), _) => text.clone(),
                // As a number: 0.6 and 0.60, 1 and 1.0 are the same.
                (Some(value), _) => value.as_f64().map_or_else(|| value.to_string(), |number| number.to_string()),
                (None, "temperature") => "0".to_owned(),
                (None, _) => "off".to_owned(),
            };
            found.put(name, value(own), value(theirs));
        }
        found.put("samples", self.samples.to_string(), other.samples.to_string());
        found.put("limit", own.max_tokens.to_string(), theirs.max_tokens.to_string());
        found.put("stop", format!("{:?}", own.stop), format!("{:?}", theirs.stop));
        let before_words = found.0.len();
        found.put("form", own.form.clone(), theirs.form.clone());
        found.put("worked examples", own.shots.to_string(), theirs.shots.to_string());
        let system =
            |protocol: &Protocol| protocol.system.as_ref().map_or("none".to_owned(), |text| format!("`{text}`"));
        found.put("system prompt", system(own), system(theirs));
        let told = |protocol: &Protocol| protocol.told.map_or("none".to_owned(), |tokens| tokens.to_string());
        found.put("told length", told(own), told(theirs));
        let has_same_template = own.form == "base" || self.template == other.template;
        let is_rendered = !own.rendered.is_empty() && !theirs.rendered.is_empty();
        let is_explained = found.0.len() > before_words;
        if has_same_template && is_rendered && !is_explained && own.rendered != theirs.rendered {
            found.0.push("other words or worked examples in the prompt".to_owned());
        }
        found.put("grader", own.grader.clone(), theirs.grader.clone());
        if own.grader == theirs.grader && own.grader_settings != theirs.grader_settings {
            found.0.push(format!("other settings of the grader `{}`", own.grader));
        }
        found.0
    }
}

struct Differences(Vec<String>);

impl Differences {
    fn put(&mut self, name: &str, own: String, theirs: String) {
        if own != theirs {
            self.0.push(format!("{name} {own}, not {theirs}"));
        }
    }
}

/// What a reader of a comparison with `label` must know of such differences; nothing where there are none.
pub(super) fn doubt(label: &str, differences: &[String]) -> Option<String> {
    let list = differences.join("; ");
    (!differences.is_empty())
        .then(|| format!("asked otherwise than {label}, so that the difference may not be the model's: {list}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_differs_is_named_with_both_values() {
        let greedy = Protocol {
            form: "chat".into(),
            max_tokens: 64,
            rendered: "<a>1+1".into(),
            grader: "math".into(),
            ..Protocol::default()
        };
        let sampled = Protocol {
            sampling: [("temperature".to_owned(), json!(1.0)), ("top_p".to_owned(), json!(0.9))].into(),
            max_tokens: 32,
            system: Some("Think.".into()),
            grader_settings: "other".into(),
            ..greedy.clone()
        };
        let asked = |protocol, samples, template| Asked { protocol, samples, template };
        let own = asked(&sampled, 8, Some("t"));
        assert_eq!(
            own.differences(&asked(&greedy, 1, Some("t"))),
            [
                "temperature 1, not 0",
                "top_p 0.9, not off",
                "samples 8, not 1",
                "limit 32, not 64",
                "system prompt `Think.`, not none",
                "other settings of the grader `math`"
            ]
        );
        assert!(own.differences(&own).is_empty());
        let one = Protocol { sampling: [("temperature".to_owned(), json!(1))].into(), ..greedy.clone() };
        let same = Protocol { sampling: [("temperature".to_owned(), json!(1.0))].into(), ..greedy.clone() };
        assert!(asked(&one, 1, None).differences(&asked(&same, 1, None)).is_empty());
    }

    #[test]
    fn words_count_unless_another_template_says_them() {
        let one = Protocol { form: "chat".into(), rendered: "<a>1+1, boxed".into(), ..Protocol::default() };
        let two = Protocol { rendered: "<a>1+1, quickly".into(), ..one.clone() };
        let differ = |first, second| {
            let asked = |protocol, template| Asked { protocol, samples: 1, template: Some(template) };
            asked(&one, first).differences(&asked(&two, second)).len()
        };
        assert_eq!((differ("t", "t"), differ("t", "u")), (1, 0));
    }
}
