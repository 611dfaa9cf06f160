//! SQL functions of near-duplicate detection, for filters and questions: `minhash_signature(text)` and `jaccard(a, b)`.
//!
//! They work with the default settings (lower-cased word 5-grams, fast similarity sketch, 9,000 slots), whatever the recipe says, so that
//! a filter means the same in every recipe. Null gives null.

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, ListBuilder, StringArray, UInt32Builder};
use arrow::datatypes::{DataType, Field, UInt32Type};
use datafusion::common::cast::{as_list_array, as_string_array};
use datafusion::error::Result;
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility};
use osler_corpus::near_duplicates::NearDuplicatesConfig;
use osler_corpus::near_duplicates::shingle::Shingler;
use osler_corpus::near_duplicates::signature::estimate;
use osler_corpus::near_duplicates::sketch::Sketcher;
use osler_corpus::near_duplicates::verify;
use std::sync::Arc;

/// Every function.
pub fn all() -> [ScalarUDF; 2] {
    [MinhashSignature::default().into(), Jaccard::default().into()]
}

/// What `minhash_signature` gives.
fn signature_type() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::UInt32, true)))
}

/// `minhash_signature(text)`: 9,000 slots, of which two texts share a fraction that estimates their Jaccard similarity.
#[derive(Debug, PartialEq, Eq, Hash)]
struct MinhashSignature {
    signature: Signature,
}

impl Default for MinhashSignature {
    fn default() -> Self {
        Self { signature: Signature::exact(vec![DataType::Utf8], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for MinhashSignature {
    fn name(&self) -> &str {
        "minhash_signature"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(signature_type())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [texts] = arrays.as_slice() else { return wrong("minhash_signature takes one text") };
        let mut sketcher = Sketcher::new(&NearDuplicatesConfig::default()).map_err(external)?;
        let mut lists = ListBuilder::new(UInt32Builder::new());
        for text in as_string_array(texts)? {
            match text {
                Some(text) => lists.append_value(sketcher.signature(text).iter().copied().map(Some)),
                None => lists.append_null(),
            }
        }
        Ok(ColumnarValue::Array(Arc::new(lists.finish())))
    }
}

/// `jaccard(a, b)`: of two texts, the exact similarity of their shingle sets; of two signatures, its estimate.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Jaccard {
    signature: Signature,
}

impl Default for Jaccard {
    fn default() -> Self {
        let texts = TypeSignature::Exact(vec![DataType::Utf8, DataType::Utf8]);
        let signatures = TypeSignature::Exact(vec![signature_type(), signature_type()]);
        Self { signature: Signature::one_of(vec![texts, signatures], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Jaccard {
    fn name(&self) -> &str {
        "jaccard"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&arguments.args)?;
        let [left, right] = arrays.as_slice() else { return wrong("jaccard takes two texts or two signatures") };
        let found = match left.data_type() {
            DataType::Utf8 => of_texts(as_string_array(left)?, as_string_array(right)?),
            _ => of_signatures(left, right)?,
        };
        Ok(ColumnarValue::Array(Arc::new(found)))
    }
}

fn of_texts(left: &StringArray, right: &StringArray) -> Float64Array {
    let mut shingler = Shingler::of(&NearDuplicatesConfig::default());
    let (mut a, mut b) = (Vec::new(), Vec::new());
    let pairs = left.iter().zip(right.iter());
    pairs
        .map(|(left, right)| {
            shingler.set(left?, &mut a);
            shingler.set(right?, &mut b);
            Some(verify::jaccard(&a, &b))
        })
        .collect()
}

fn of_signatures(left: &ArrayRef, right: &ArrayRef) -> Result<Float64Array> {
    let (left, right) = (as_list_array(left)?, as_list_array(right)?);
    let slots = |array: &ArrayRef| array.as_primitive_opt::<UInt32Type>().map(|slots| slots.values().to_vec());
    let estimates = left.iter().zip(right.iter()).map(|(left, right)| Some(estimate(&slots(&left?)?, &slots(&right?)?)));
    Ok(estimates.collect())
}

fn wrong<T>(problem: &str) -> Result<T> {
    Err(datafusion::error::DataFusionError::Plan(problem.to_string()))
}

fn external(error: osler_corpus::operator::Error) -> datafusion::error::DataFusionError {
    datafusion::error::DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::Float64Type;
    use datafusion::prelude::{SessionConfig, SessionContext};

    fn ask(sql: &str) -> Option<f64> {
        let mut config = SessionConfig::new();
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        let session = SessionContext::new_with_config(config);
        all().into_iter().for_each(|function| session.register_udf(function));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let batches = runtime.block_on(async { session.sql(sql).await.unwrap().collect().await.unwrap() });
        let column = batches[0].column(0).as_primitive::<Float64Type>();
        column.is_valid(0).then(|| column.value(0))
    }

    #[test]
    fn texts_and_signatures_are_compared() {
        assert_eq!(ask("SELECT jaccard('a b c d e f g', 'A b c d e f x')"), Some(0.5));
        assert_eq!(ask("SELECT jaccard('a b c', CAST(NULL AS VARCHAR))"), None);
        assert_eq!(ask("SELECT jaccard(minhash_signature('a b c d e f'), minhash_signature('a, b; c d e f.'))"), Some(1.0));
        let estimate = ask("SELECT jaccard(minhash_signature('a b c d e f g'), minhash_signature('a b c d e f x'))").unwrap();
        assert!((estimate - 0.5).abs() < 0.03, "{estimate}");
        assert_eq!(ask("SELECT jaccard(minhash_signature(''), minhash_signature(''))"), Some(0.0));
    }
}
