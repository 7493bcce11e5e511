//! The tests of a programming problem, in the forms that data sets have them.

use serde_json::Value;

/// One test of a program.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// What goes in and what must come out.
    Streams {
        /// Standard input.
        input: String,
        /// Standard output, blanks at both ends aside.
        output: String,
    },
    /// Code that runs after the answer's.
    Code {
        /// The code; it fails by ending otherwise than with status 0.
        code: String,
        /// What must be printed, where that is part of the test.
        output: Option<String>,
    },
}

/// Reads a column of tests: see [`super::code::CodeConfig`] for the forms.
///
/// A string of test code that defines `check` is followed by a call of it with `entry_point`, as in HumanEval.
/// Errors: what is no test, with its place.
pub fn parse(column: &Value, entry_point: Option<&str>) -> Result<Vec<Test>, String> {
    match column {
        Value::Null => Ok(Vec::new()),
        Value::String(text) if text.trim().is_empty() => Ok(Vec::new()),
        Value::String(text) => match serde_json::from_str::<Value>(text) {
            Ok(inner @ (Value::Array(_) | Value::Object(_))) => parse(&inner, entry_point),
            _ => Ok(vec![code(text, None, entry_point)]),
        },
        Value::Array(tests) => (tests.iter().enumerate())
            .map(|(i, test)| one(test, entry_point).map_err(|why| format!("test {i}: {why}")))
            .collect(),
        Value::Object(object) => match (object.get("inputs"), object.get("outputs")) {
            (Some(Value::Array(inputs)), Some(Value::Array(outputs))) if inputs.len() == outputs.len() => {
                inputs.iter().zip(outputs).map(|(input, output)| streams(input, output)).collect()
            }
            (Some(_), Some(_)) => Err("`inputs` and `outputs` must be lists of one length".into()),
            _ => Ok(vec![one(column, entry_point)?]),
        },
        other => Err(format!("`{other}` is no test")),
    }
}

fn one(test: &Value, entry_point: Option<&str>) -> Result<Test, String> {
    if let Value::String(text) = test {
        return Ok(code(text, None, entry_point));
    }
    let Some(object) = test.as_object() else { return Err(format!("`{test}` is no test")) };
    match (object.get("code"), object.get("input"), object.get("output")) {
        (Some(Value::String(text)), None, None) => Ok(code(text, None, entry_point)),
        (Some(Value::String(text)), None, Some(output)) => Ok(code(text, Some(as_text(output)?), entry_point)),
        (None, Some(input), Some(output)) => streams(input, output),
        _ => Err("it needs `input` and `output`, or `code`".into()),
    }
}

fn code(text: &str, output: Option<String>, entry_point: Option<&str>) -> Test {
    let call =
        entry_point.filter(|_| text.contains("def check(")).map_or(String::new(), |name| format!("\ncheck({name})"));
    Test::Code { code: format!("{text}{call}"), output }
}

fn streams(input: &Value, output: &Value) -> Result<Test, String> {
    Ok(Test::Streams { input: as_text(input)?, output: as_text(output)? })
}

/// A string, a number, or lines of them.
fn as_text(value: &Value) -> Result<String, String> {
    match value {
        Value::String(text) => Ok(text.clone()),
        Value::Number(number) => Ok(number.to_string()),
        Value::Array(lines) => Ok(lines.iter().map(as_text).collect::<Result<Vec<_>, _>>()?.join("\n")),
        other => Err(format!("`{other}` is neither text nor lines of text")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_form_is_read() {
        let io = |input: &str, output: &str| Test::Streams { input: input.into(), output: output.into() };
        let asserts = |code: &str| Test::Code { code: code.into(), output: None };
        for (column, expected) in [
            (json!([{"input": "1\n", "output": 2}]), vec![io("1\n", "2")]),
            (json!({"inputs": ["1", ["2", 3]], "outputs": ["a", "b"]}), vec![io("1", "a"), io("2\n3", "b")]),
            (json!(r#"[{"input": "1", "output": "2"}]"#), vec![io("1", "2")]),
            (
                json!(["assert f(1) == 2", "assert f(2) == 3"]),
                vec![asserts("assert f(1) == 2"), asserts("assert f(2) == 3")],
            ),
            (json!("assert f(1) == 2"), vec![asserts("assert f(1) == 2")]),
            (json!("def check(c):\n  pass"), vec![asserts("def check(c):\n  pass\ncheck(f)")]),
            (
                json!({"code": "print(f(1))", "output": "2"}),
                vec![Test::Code { code: "print(f(1))".into(), output: Some("2".into()) }],
            ),
            (json!(null), vec![]),
            (json!(" "), vec![]),
        ] {
            assert_eq!(parse(&column, Some("f")).unwrap(), expected, "{column}");
        }
    }

    #[test]
    fn what_is_no_test_is_named() {
        for (column, why) in [
            (json!([1]), "test 0: `1` is no test"),
            (json!([{"input": "1"}]), "test 0: it needs"),
            (json!({"inputs": ["1"], "outputs": []}), "one length"),
            (json!([{"input": {"a": 1}, "output": "2"}]), "neither text"),
            (json!(3), "`3` is no test"),
        ] {
            assert!(parse(&column, None).unwrap_err().contains(why), "{column}");
        }
    }
}
