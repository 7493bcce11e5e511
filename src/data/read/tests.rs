use super::*;

fn file(name: &str, content: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}

fn all(path: &Path) -> Result<Vec<(usize, Map<String, Json>)>> {
    rows(path)?.map(|row| row.map(|(place, row)| (place.number, row))).collect()
}

#[test]
fn lines_are_rows_and_blank_ones_are_skipped() {
    let (_folder, path) = file("a.jsonl", b"\xEF\xBB\xBF\n{\"a\": 1}\r\n\n   \n{\"a\": 2}");
    let rows = all(&path).unwrap();
    assert_eq!(
        rows.iter().map(|(line, row)| (*line, row["a"].as_i64().unwrap())).collect::<Vec<_>>(),
        [(2, 1), (5, 2)]
    );
}

#[test]
fn an_array_is_rows_too() {
    let (_folder, path) = file("a.json", b" [{\"a\": 1},\n {\"a\": 2}]");
    assert_eq!(all(&path).unwrap().len(), 2);
    let (_folder, path) = file("b.json", b"[{\"a\": 1}, 7]");
    let error = all(&path).unwrap_err().to_string();
    assert!(error.ends_with("b.json:2: not a JSON object but a number"), "{error}");
}

#[test]
fn bad_lines_are_named() {
    for (content, expected) in [
        (&b"{\"a\": 1}\n{\"a\": \n"[..], "a.jsonl:2: not valid JSON: EOF while parsing a value (column"),
        (b"\n\n{\"a\": 1}\n[1]\n", "a.jsonl:4: not a JSON object but a list"),
        (b"{\"a\": 1}\nhello\n", "a.jsonl:2: not valid JSON: expected value (column 1)"),
        (b"{\"a\": \"\xFF\xFE\"}\n", "a.jsonl:1: not valid JSON: invalid unicode code point"),
    ] {
        let (_folder, path) = file("a.jsonl", content);
        let error = all(&path).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn empty_files_are_errors() {
    for (name, content) in
        [("a.jsonl", &b""[..]), ("a.jsonl", b"\n \n"), ("a.json", b"[]"), ("a.jsonl", b"\xEF\xBB\xBF")]
    {
        let (_folder, path) = file(name, content);
        let error = all(&path).unwrap_err().to_string();
        assert!(error.ends_with("is empty"), "{error}");
    }
    let missing = Path::new("no-such-folder/a.jsonl");
    assert!(all(missing).unwrap_err().to_string().contains("cannot open `no-such-folder/a.jsonl`"));
}

#[test]
fn the_iterator_ends_after_an_error() {
    let (_folder, path) = file("a.jsonl", b"{\"a\": 1}\n{\n{\"a\": 2}\n");
    let rows: Vec<bool> = rows(&path).unwrap().map(|row| row.is_ok()).collect();
    assert_eq!(rows, [true, false]);
}

#[cfg(feature = "parquet")]
mod parquet_files {
    use super::*;
    use parquet::basic::Compression;
    use parquet::data_type::{
        ByteArray, ByteArrayType, DoubleType, FixedLenByteArray, FixedLenByteArrayType, Int64Type,
    };
    use parquet::file::properties::WriterProperties;
    use parquet::file::writer::SerializedFileWriter;
    use parquet::schema::parser::parse_message_type;
    use std::sync::Arc;

    pub(crate) fn write(path: &Path, compression: Compression) {
        let schema = "message rows {
            required binary question (utf8);
            optional binary answer (utf8);
            required int64 level;
            required double weight;
            required fixed_len_byte_array(12) span (interval);
            optional group tags (list) { repeated group list { optional binary element (utf8); } }
        }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut writer = SerializedFileWriter::new(File::create(path).unwrap(), schema, properties).unwrap();
        let text = |words: &[&str]| words.iter().map(|word| ByteArray::from(*word)).collect::<Vec<_>>();
        let mut group = writer.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&text(&["2+2?", "3+3?"]), None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&text(&["4"]), Some(&[1, 0]), None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[1, 5], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<DoubleType>().write_batch(&[0.5, 2.0], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let spans = vec![FixedLenByteArray::from(ByteArray::from(vec![0u8; 12])); 2];
        column.typed::<FixedLenByteArrayType>().write_batch(&spans, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let levels: (&[i16], &[i16]) = (&[3, 3, 0], &[0, 1, 0]);
        column.typed::<ByteArrayType>().write_batch(&text(&["a", "b"]), Some(levels.0), Some(levels.1)).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn parquet_rows_are_read_whatever_the_compression() {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, Compression::ZSTD(Default::default())] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.parquet");
            write(&path, compression);
            let rows = all(&path).unwrap();
            assert_eq!(rows.len(), 2);
            assert_eq!(rows[0].1["question"], "2+2?");
            assert_eq!(rows[0].1["answer"], "4");
            assert_eq!(rows[1].1["answer"], Json::Null);
            assert_eq!(rows[1].1["level"], 5);
            assert_eq!(rows[0].1["tags"], serde_json::json!(["a", "b"]));
            // The reader cannot turn intervals into values: the column is left out.
            assert!(!rows[0].1.contains_key("span"));
        }
    }

    #[test]
    fn a_file_that_is_not_parquet_is_one_clear_line() {
        let (_folder, path) = file("a.parquet", b"PAR1 but no more than that PAR1");
        let error = all(&path).unwrap_err().to_string();
        assert!(error.contains("a.parquet` is not a parquet file"), "{error}");
        let (_folder, path) = file("b.parquet", b"");
        assert!(all(&path).is_err());
    }

    #[test]
    fn a_cut_parquet_file_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.parquet");
        write(&path, Compression::SNAPPY);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 20]).unwrap();
        assert!(all(&path).is_err());
    }
}
