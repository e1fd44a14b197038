// Prisma's query engine as WebAssembly, with the command line, signals and HTTP routes of the native one.
const fs = require('fs');
const http = require('http');
const os = require('os');
const path = require('path');

const VERSION = '393aa359c9ad4a4bb28630fb5613f9c281cde053';
const MODULES = path.join(__dirname, 'node_modules') + path.sep;
const RUNTIME = MODULES + '@prisma/client/runtime/';
const NO_TRACE = JSON.stringify({});

const args = process.argv.slice(2);
if (args.includes('--version')) {
  console.log('query-engine ' + VERSION);
  process.exit(0);
}
process.title = 'query-engine-debian-openssl-3.0.x';
log('start');
let pool;
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, async () => {
    log(signal);
    try {
      await pool?.end();
    } finally {
      process.exit(0);
    }
  });
}
process.on('exit', (code) => log('exit ' + code));

const { Pool } = require(MODULES + 'pg');
const { PrismaPg } = require(MODULES + '@prisma/adapter-pg');
const { bindAdapter } = require(MODULES + '@prisma/driver-adapter-utils');
const runtime = require(RUNTIME + 'query_engine_bg.postgresql.js');
const Result = require(MODULES + 'pg/lib/result.js');
const { modelsOf, plain, request, typedRows } = require('./translate.js');

// QE_LOG names a file for what this process does.
function log(message) {
  const file = process.env.QE_LOG;
  if (!file) return;
  const now = (Date.now() / 1000).toFixed(3);
  fs.appendFileSync(file, `${now} pid=${process.pid} ppid=${process.ppid} ${message}\n`);
}

function readSchema() {
  const schema = fs
    .readFileSync(process.env.PRISMA_DML_PATH, 'utf8')
    .replace(/binaryTargets\s*=.*\n/, '\n')
    .replace(/recursive_type_depth.*\n/, '\n');
  return schema.includes('driverAdapters')
    ? schema
    : schema.replace(/(generator\s+client\s*\{)/, '$1\n  previewFeatures = ["driverAdapters"]');
}

// The adapter knows no names of the catalogue (19, 1003); for the native engine they are text.
const TEXT = new Map([
  [19, 25],
  [1003, 1009],
]);
const addFields = Result.prototype.addFields;
Result.prototype.addFields = function (fields) {
  for (const field of fields) field.dataTypeID = TEXT.get(field.dataTypeID) ?? field.dataTypeID;
  return addFields.call(this, fields);
};

// Like the native engine's: its size is the connection_limit of DATABASE_URL.
function makePool() {
  const url = new URL(process.env.DATABASE_URL);
  const max = Number(url.searchParams.get('connection_limit') || 5);
  url.search = '';
  const made = new Pool({
    connectionString: url.toString(),
    max,
    idleTimeoutMillis: 0,
    application_name: 'prisma-engine-' + process.pid,
  });
  made.on('error', (error) => log('pool error ' + error.message));
  return made;
}

async function connect(schema) {
  pool = makePool();
  const code = new WebAssembly.Module(fs.readFileSync(RUNTIME + 'query_engine_bg.postgresql.wasm'));
  const instance = new WebAssembly.Instance(code, { './query_engine_bg.js': runtime });
  runtime.__wbg_set_wasm(instance.exports);
  instance.exports.__wbindgen_start?.();
  const settings = {
    datamodel: schema,
    env: process.env,
    logQueries: false,
    ignoreEnvVarErrors: true,
    datasourceOverrides: {},
    logLevel: 'error',
    configDir: os.tmpdir(),
    engineProtocol: 'json',
  };
  const tell = (message) => log('engine ' + String(message).slice(0, 300));
  const engine = new runtime.QueryEngine(settings, tell, bindAdapter(new PrismaPg(pool)));
  // The native engine connects at once.
  await pool.query('select 1');
  await engine.connect(JSON.stringify({ enableTracing: false }));
  log('connected');
  return engine;
}

const schema = readSchema();
const models = modelsOf(schema);
const connected = connect(schema).catch((error) => {
  log('init failed ' + error.stack);
  console.error(JSON.stringify({ is_panic: false, message: error.message, error_code: 'P1001' }));
  process.exit(1);
});

const failed = (errors) => ({
  errors: errors.map(({ error, user_facing_error }) => ({ error, user_facing_error })),
});
const onlyValue = (object) => object[Object.keys(object)[0]];

async function ask(body, transaction) {
  const engine = await connected;
  return JSON.parse(await engine.query(JSON.stringify(body), NO_TRACE, transaction));
}

async function answerOne({ query }, transaction) {
  const { alias, raw, body } = request(query, models);
  const answer = await ask(body, transaction);
  if (answer.errors) {
    log('error ' + JSON.stringify(answer.errors).slice(0, 600));
    return failed(answer.errors);
  }
  const value = onlyValue(plain(answer.data));
  const rows = raw && process.env.QE_OLD_RAW === '1' && value?.columns;
  return { data: { [alias]: rows ? typedRows(value) : value } };
}

async function answerBatch({ batch, transaction }, outer) {
  const requests = batch.map(({ query }) => request(query, models));
  const bodies = requests.map(({ body }) => body);
  const answer = await ask({ batch: bodies, transaction: transaction ? {} : undefined }, outer);
  if (answer.errors) {
    log('error in a batch ' + JSON.stringify(answer.errors).slice(0, 600));
    return failed(answer.errors);
  }
  return {
    batchResult: answer.batchResult.map((each, index) =>
      each.errors
        ? { errors: each.errors }
        : { data: { [requests[index].alias]: onlyValue(plain(each.data)) } },
    ),
  };
}

async function answer(url, text, transaction) {
  const engine = await connected;
  if (url === '/status') return { status: 'ok' };
  if (url.startsWith('/metrics')) return { counters: [], gauges: [], histograms: [] };
  if (url === '/transaction/start')
    return JSON.parse(await engine.startTransaction(text, NO_TRACE));
  const end = /^\/transaction\/(.*)\/(commit|rollback)/.exec(url);
  if (end) {
    const [, id, verb] = end;
    return JSON.parse((await engine[verb + 'Transaction'](id, NO_TRACE)) || '{}');
  }
  const body = JSON.parse(text);
  return body.batch ? answerBatch(body, transaction) : answerOne(body, transaction);
}

function refusal(error) {
  const message = String(error.message || error);
  const facing = { is_panic: false, message, error_code: 'P2010', meta: {} };
  return { errors: [{ error: message, user_facing_error: facing }] };
}

async function serve(incoming, outgoing) {
  let text = '';
  for await (const chunk of incoming.setEncoding('utf8')) text += chunk;
  let reply;
  try {
    reply = await answer(incoming.url, text, incoming.headers['x-transaction-id']);
  } catch (error) {
    log(`refused ${String(error.stack || error).slice(0, 500)} for ${text.slice(0, 300)}`);
    reply = refusal(error);
  }
  const body = JSON.stringify(reply);
  outgoing.writeHead(200, {
    'content-type': 'application/json',
    'content-length': Buffer.byteLength(body),
  });
  outgoing.end(body);
}

// localhost may be ::1 for the client; not every system has that.
for (const address of ['127.0.0.1', '::1']) {
  const server = http.createServer(serve);
  server.keepAliveTimeout = 0;
  if (address === '::1') server.on('error', () => {});
  server.listen(Number(args[args.indexOf('-p') + 1]), address);
}
