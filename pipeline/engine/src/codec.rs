//! Writes a plan to bytes and reads it back, so that its map-side part (read, parse, filter, sketch, tokenize) can run on another machine.
//!
//! An [`OperatorSpec`] is plain data and travels as JSON; what it needs at run time (stores, progress) comes from the [`Context`] of the
//! machine that reads the plan.

use crate::context::Context;
use crate::operator_exec::OperatorExec;
use crate::spec::OperatorSpec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{physical_plan_from_bytes_with_extension_codec, physical_plan_to_bytes_with_extension_codec};
use datafusion_proto::physical_plan::{PhysicalExtensionCodec, PhysicalProtoConverterExtension};
use std::sync::Arc;

/// The one codec for plans with Osler's operators in them.
#[derive(Debug)]
pub struct OperatorCodec {
    pub context: Arc<Context>,
}

impl OperatorCodec {
    /// The plan as bytes.
    ///
    /// # Errors
    /// When the plan holds a node that neither DataFusion nor this codec can write.
    pub fn encode(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Vec<u8>> {
        Ok(physical_plan_to_bytes_with_extension_codec(plan, self)?.to_vec())
    }

    /// The plan that [`OperatorCodec::encode`] wrote.
    ///
    /// # Errors
    /// When the bytes are not such a plan, or of a version with other operators.
    pub fn decode(&self, bytes: &[u8], task: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
        physical_plan_from_bytes_with_extension_codec(bytes, task, self)
    }
}

impl PhysicalExtensionCodec for OperatorCodec {
    fn try_decode(
        &self,
        bytes: &[u8],
        inputs: &[Arc<dyn ExecutionPlan>],
        _task: &TaskContext,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let spec: OperatorSpec = serde_json::from_slice(bytes)
            .map_err(|error| DataFusionError::Plan(format!("plan holds an operator this version does not know: {error}")))?;
        let [input] = inputs else {
            return Err(DataFusionError::Plan(format!("{spec} takes one input, the plan gives {}", inputs.len())));
        };
        Ok(Arc::new(OperatorExec::new(spec, input.clone(), self.context.clone())))
    }

    fn try_encode(
        &self,
        node: Arc<dyn ExecutionPlan>,
        bytes: &mut Vec<u8>,
        _converter: &dyn PhysicalProtoConverterExtension,
    ) -> Result<()> {
        let Some(operator) = (node.as_ref() as &dyn std::any::Any).downcast_ref::<OperatorExec>() else {
            return Err(DataFusionError::Plan(format!("{} cannot be written to bytes", node.name())));
        };
        serde_json::to_writer(bytes, operator.spec()).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::{RunFolder, TableWriter};
    use crate::context::Silent;
    use crate::recipe::Recipe;
    use crate::run::{Options, prepare};
    use crate::session::Session;
    use crate::tables::{CORPUS, DOCUMENTS};
    use crate::{documents, near, tokens};
    use datafusion::physical_plan::collect;
    use std::sync::atomic::AtomicBool;

    const RECIPE: &str = "
        [[source]]
        name = 'notes'
        format = 'jsonl'
        path = 'in/*.jsonl'
        licenses = ['*']
        [[filter]]
        name = 'words'
        sql = 'num_words > 10'";

    /// Rows as text, sorted: a plan's partitions may come in any order.
    fn rows(session: &Session, plan: Arc<dyn ExecutionPlan>, runtime: &tokio::runtime::Runtime) -> Vec<String> {
        let batches = runtime.block_on(collect(plan, session.sql.task_ctx())).unwrap();
        let text = arrow::util::pretty::pretty_format_batches(&batches).unwrap().to_string();
        let mut rows: Vec<String> = text.lines().map(str::to_string).collect();
        rows.sort();
        rows
    }

    #[test]
    fn map_side_plans_give_the_same_rows_after_a_round_trip() {
        let scratch = std::env::temp_dir().join(format!("osler-codec-{}", std::process::id()));
        std::fs::create_dir_all(scratch.join("in")).unwrap();
        let lines: String = (0..50)
            .map(|row| {
                let words: Vec<String> = (0..60).map(|word| format!("w{}", (row / 2 * 131 + word * 17) % 997)).collect();
                format!("{{\"text\": \"{} {row}\"}}\n", words.join(" "))
            })
            .collect();
        std::fs::write(scratch.join("in/a.jsonl"), lines).unwrap();
        let recipe = Recipe::parse("r.toml", RECIPE, &[("threads".into(), "2".into())]).unwrap();
        let options = Options {
            out: scratch.join("out"),
            recipe: recipe.clone(),
            base: scratch.clone(),
            storage_environment: Default::default(),
            progress: Arc::new(Silent),
            cancelled: Arc::new(AtomicBool::new(false)),
        };
        let runtime = crate::run::runtime(&recipe).unwrap();
        let folder = RunFolder { root: options.out.clone() };
        let (session, files) = runtime.block_on(prepare(&options, folder, runtime.handle())).unwrap();
        let parse = runtime.block_on(documents::plan(&session, &recipe, &files)).unwrap();
        let codec = OperatorCodec { context: session.context.clone() };
        let check = |name: &str, plan: Arc<dyn ExecutionPlan>| {
            let bytes = codec.encode(plan.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
            let copy = codec.decode(&bytes, &session.sql.task_ctx()).unwrap_or_else(|error| panic!("{name}: {error}"));
            let want = rows(&session, plan, &runtime);
            assert!(want.len() > 10, "{name} gives rows");
            assert_eq!(want, rows(&session, copy, &runtime), "{name}");
        };
        check("read, parse, filter", parse);
        runtime.block_on(documents::run(&session, &recipe, &files, "f")).unwrap();
        near::write_ordinals(&session.folder, &crate::tables::COPIES, &[]).unwrap();
        let candidates = near::candidates_plan(&session, &recipe.near_duplicates);
        check("sketch, group", runtime.block_on(candidates).unwrap());
        let read = runtime.block_on(session.read(&DOCUMENTS)).unwrap();
        let read = runtime.block_on(read.create_physical_plan()).unwrap();
        let mut corpus = TableWriter::new(&session.folder, &CORPUS).unwrap();
        runtime.block_on(session.for_each(read, |batch| corpus.push(&batch))).unwrap();
        corpus.finish().unwrap();
        session.folder.publish(&CORPUS).unwrap();
        let tokenizer = scratch.join("tokenizer.json");
        let mut trainer =
            osler_corpus::train_tokenizer::TokenizerTrainer::new(serde_json::from_str("{\"vocab_size\": 300}").unwrap()).unwrap();
        trainer.push("w1 w2 w3 w4 w5");
        std::fs::write(&tokenizer, trainer.train(&|| false).unwrap()).unwrap();
        check("tokenize", runtime.block_on(tokens::plan(&session, &recipe, tokenizer)).unwrap());
        std::fs::remove_dir_all(&scratch).unwrap();
    }

    #[test]
    fn a_plan_of_another_version_is_refused() {
        let error = serde_json::from_slice::<OperatorSpec>(b"{\"operator\": \"teleport\"}").unwrap_err();
        assert!(error.to_string().contains("teleport"));
    }
}
