//! A DataFusion session under the run's memory budget, and the ways tables get into and out of it.

use crate::boundary::RunFolder;
use crate::context::Context;
use crate::error::Error;
use crate::operator_exec::OperatorExec;
use crate::pool::{SPILL_SHARE, SpillPool};
use crate::spec::OperatorSpec;
use crate::tables::Table;
use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{SchemaRef, UInt64Type};
use async_trait::async_trait;
use datafusion::catalog::{Session as CatalogSession, TableProvider};
use datafusion::datasource::TableType;
use datafusion::error::Result;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::{MemoryLimit, TrackConsumersPool};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::projection::ProjectionExec;
use datafusion::physical_plan::{ExecutionPlan, displayable, execute_stream};
use datafusion::prelude::{DataFrame, ParquetReadOptions, SessionConfig, SessionContext, ident};
use futures::StreamExt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// Share of the memory budget that DataFusion and the operators may reserve; the rest is for what nobody declares: buffers of readers and
/// writers, batches in flight, the program itself.
pub(crate) const POOL_SHARE: f64 = 0.6;

/// Memory budget that a partition has to have: the merge of its sort cannot spill, and partitions that run out together all fail.
const PARTITION_BYTES: usize = 64 << 20;

/// What a document is reckoned with where a merge holds batches of them: most are shorter.
const LONG_DOCUMENT_BYTES: usize = 64 << 10;
/// Batches that a merge may hold of each of its sorts.
const MERGED_BATCHES: f64 = 2.0;

/// A session and what operators share.
#[derive(Clone)]
pub struct Session {
    pub sql: SessionContext,
    pub context: Arc<Context>,
    pub folder: RunFolder,
    /// Where what does not fit in memory goes.
    pub spill: PathBuf,
}

impl Session {
    /// A session that spills to `spill`, with a memory budget, a number of threads and rows per batch.
    ///
    /// # Errors
    /// When the spill folder cannot be used.
    pub fn new(
        folder: RunFolder,
        context: Arc<Context>,
        spill: PathBuf,
        (memory_bytes, threads, batch_rows): (usize, usize, usize),
    ) -> Result<Self, Error> {
        std::fs::create_dir_all(&spill).map_err(|error| Error::io(&spill, error))?;
        let threads = threads.min(memory_bytes / PARTITION_BYTES).max(1);
        let pool = SpillPool::new((memory_bytes as f64 * POOL_SHARE) as usize);
        let tracked = TrackConsumersPool::new(pool, NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN));
        let disk = DiskManagerBuilder::default()
            .with_mode(DiskManagerMode::Directories(vec![spill.clone()]))
            .with_max_temp_directory_size(u64::MAX);
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(tracked)).with_disk_manager_builder(disk).build_arc()?;
        let mut config = SessionConfig::new().with_target_partitions(threads).with_batch_size(batch_rows).with_information_schema(false);
        let options = config.options_mut();
        // Our tables are Utf8; views would double every type an operator has to know.
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        // A hash join holds one side, texts and all; a merge join spills.
        options.optimizer.prefer_hash_join = false;
        // What each partition's external sort sets aside for its merge must fit beside the rows, also with small budgets or many threads.
        options.execution.sort_spill_reservation_bytes = (memory_bytes / (16 * threads.max(4))).clamp(64 << 10, 10 << 20);
        Ok(Self { sql: with_functions(config, runtime), context, folder, spill })
    }

    /// The same session with one partition: a table comes in the order it was written in.
    pub fn in_order(&self) -> Self {
        let config = self.sql.copied_config().with_target_partitions(1);
        Self { sql: with_functions(config, self.sql.runtime_env()), ..self.clone() }
    }

    /// The same session with batches of so few rows that those of whole documents which a merge holds fit beside its sorts.
    pub fn for_documents(&self) -> Self {
        let config = self.sql.copied_config();
        let room = match self.sql.runtime_env().memory_pool.memory_limit() {
            MemoryLimit::Finite(bytes) => (bytes as f64 * (1.0 - SPILL_SHARE) / MERGED_BATCHES) as usize,
            MemoryLimit::Infinite | MemoryLimit::Unknown => usize::MAX,
        };
        let batch_rows = (room / config.target_partitions() / LONG_DOCUMENT_BYTES).clamp(1, config.batch_size().max(1));
        Self { sql: with_functions(config.with_batch_size(batch_rows), self.sql.runtime_env()), ..self.clone() }
    }

    /// Makes a table in the run's folder known to SQL.
    ///
    /// # Errors
    /// When there is no such table, or it was written by another version of the program.
    pub async fn register(&self, table: &Table) -> Result<(), Error> {
        let frame = self.read(table).await?;
        self.sql.deregister_table(table.name)?;
        self.sql.register_table(table.name, frame.into_view())?;
        Ok(())
    }

    /// A table in the run's folder.
    ///
    /// # Errors
    /// When there is no such table, or it was written by another version of the program.
    pub async fn read(&self, table: &Table) -> Result<DataFrame, Error> {
        table.check(&self.folder)?;
        let order = table.order.iter().map(|column| ident(*column).sort(true, true)).collect::<Vec<_>>();
        let order = if order.is_empty() { Vec::new() } else { vec![order] };
        Ok(self.sql.read_parquet(self.url(table)?, ParquetReadOptions::default().file_sort_order(order)).await?)
    }

    /// A table's folder as a URL, so that no character of the path means anything else.
    ///
    /// # Errors
    /// When the path has no absolute form.
    fn url(&self, table: &Table) -> Result<String, Error> {
        let path = self.folder.path(table.folder);
        let absolute = std::path::absolute(&path).map_err(|error| Error::io(&path, error))?;
        let url = Url::from_directory_path(absolute).map_err(|()| Error::User(format!("{}: no such path can be", path.display())))?;
        Ok(url.into())
    }

    /// A plan as a frame, to go on in SQL from there.
    ///
    /// # Errors
    /// When DataFusion refuses the plan's schema.
    pub fn frame(&self, plan: Arc<dyn ExecutionPlan>) -> Result<DataFrame, Error> {
        Ok(self.sql.read_table(Arc::new(PlanTable { plan }))?)
    }

    /// An operator over a plan.
    pub fn operator(&self, spec: OperatorSpec, input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        Arc::new(OperatorExec::new(spec, input, self.context.clone()))
    }

    /// Runs a plan and gives each batch to `each`, in the plan's order.
    ///
    /// # Errors
    /// What the plan or `each` runs into, or a request to stop.
    pub async fn for_each(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        mut each: impl FnMut(RecordBatch) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut stream: SendableRecordBatchStream = execute_stream(plan, self.sql.task_ctx())?;
        while let Some(batch) = stream.next().await {
            self.context.check_cancelled()?;
            each(batch?)?;
        }
        // An operator that was told to stop ends its stream early.
        self.context.check_cancelled()?;
        Ok(())
    }

    /// Runs a plan, gives each batch to `work` on threads of its own, and what comes of it to `each`. Batches may come in any order.
    ///
    /// # Errors
    /// What the plan, `work` or `each` runs into, or a request to stop.
    pub async fn map_each<T: Send + 'static>(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        work: impl Fn(RecordBatch) -> Result<T, Error> + Clone + Send + 'static,
        mut each: impl FnMut(T) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let threads = self.sql.copied_config().target_partitions();
        let batches = execute_stream(plan, self.sql.task_ctx())?;
        let mut done = batches
            .map(|batch| {
                let work = work.clone();
                async move {
                    let batch = batch?;
                    tokio::task::spawn_blocking(move || work(batch)).await.map_err(|error| Error::Internal(error.to_string()))?
                }
            })
            .buffer_unordered(threads);
        while let Some(outcome) = done.next().await {
            self.context.check_cancelled()?;
            each(outcome?)?;
        }
        self.context.check_cancelled()?;
        Ok(())
    }

    /// The rows of a query.
    ///
    /// # Errors
    /// What the query runs into.
    pub async fn query(&self, sql: &str) -> Result<Vec<RecordBatch>, Error> {
        Ok(self.sql.sql(sql).await?.collect().await?)
    }

    /// The one number, unsigned, that a query gives; 0 where it gives none.
    ///
    /// # Errors
    /// What the query runs into.
    pub async fn number(&self, sql: &str) -> Result<u64, Error> {
        let rows = self.query(sql).await?;
        Ok(rows.first().map_or(0, |batch| batch.column(0).as_primitive::<UInt64Type>().value(0)))
    }

    /// The physical plan of a query.
    ///
    /// # Errors
    /// What planning runs into.
    pub async fn plan(&self, sql: &str) -> Result<Arc<dyn ExecutionPlan>, Error> {
        Ok(self.sql.sql(sql).await?.create_physical_plan().await?)
    }
}

/// A context of DataFusion's that knows our functions.
fn with_functions(config: SessionConfig, runtime: Arc<RuntimeEnv>) -> SessionContext {
    let sql = SessionContext::new_with_config_rt(config, runtime);
    crate::functions::all().into_iter().for_each(|function| sql.register_udf(function));
    sql
}

/// A plan as `EXPLAIN` prints it.
pub fn explain(plan: &dyn ExecutionPlan) -> String {
    displayable(plan).indent(false).to_string()
}

/// A table that is a plan.
#[derive(Debug)]
struct PlanTable {
    plan: Arc<dyn ExecutionPlan>,
}

#[async_trait]
impl TableProvider for PlanTable {
    fn schema(&self) -> SchemaRef {
        self.plan.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Temporary
    }

    async fn scan(
        &self,
        _session: &dyn CatalogSession,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let Some(columns) = projection else { return Ok(self.plan.clone()) };
        let schema = self.plan.schema();
        let columns = columns.iter().map(|&index| {
            let name = schema.field(index).name();
            let column = datafusion::physical_expr::expressions::Column::new(name, index);
            (Arc::new(column) as Arc<dyn datafusion::physical_plan::PhysicalExpr>, name.clone())
        });
        Ok(Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), self.plan.clone())?))
    }
}
