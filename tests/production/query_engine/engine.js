// query-engine stand-in: real Prisma 5.17 query engine (WASM) + @prisma/adapter-pg, speaking the HTTP/GraphQL protocol of prisma-client-py.
const fs = require('fs'),
  http = require('http'),
  path = require('path');
const NM = path.join(__dirname, 'node_modules') + path.sep;
const args = process.argv.slice(2);
if (args.includes('--version')) {
  console.log(
    'query-engine ' + (process.env.FAKE_QE_VERSION || '393aa359c9ad4a4bb28630fb5613f9c281cde053'),
  );
  process.exit(0);
}
process.title = 'query-engine-debian-openssl-3.0.x';
const elog = (m) => {
  try {
    process.env.QE_LOG &&
      fs.appendFileSync(
        process.env.QE_LOG,
        `${(Date.now() / 1000).toFixed(3)} pid=${process.pid} ppid=${process.ppid} ${m}\n`,
      );
  } catch (e) {}
};
const port = +args[args.indexOf('-p') + 1];
elog(`start port=${port} args=${args.join(' ')} protocol=${process.env.PRISMA_ENGINE_PROTOCOL}`);
for (const s of ['SIGTERM', 'SIGINT'])
  process.on(s, async () => {
    elog(s);
    try {
      await pool?.end();
    } catch (e) {}
    process.exit(0);
  });
process.on('exit', (c) => elog('exit ' + c));
const { parse } = require(NM + 'graphql');
const { Pool } = require(NM + 'pg'),
  { PrismaPg } = require(NM + '@prisma/adapter-pg'),
  { bindAdapter } = require(NM + '@prisma/driver-adapter-utils');
const R = NM + '@prisma/client/runtime/';
const rt = require(R + 'query_engine_bg.postgresql.js');
let schema = fs.readFileSync(process.env.PRISMA_DML_PATH, 'utf8');
if (!/driverAdapters/.test(schema))
  schema = schema.replace(
    /(generator\s+client\s*\{)/,
    '$1\n  previewFeatures = ["driverAdapters"]',
  );
schema = schema.replace(/binaryTargets\s*=.*\n/, '\n').replace(/recursive_type_depth.*\n/, '\n');
// like the native engine: pool size from connection_limit
const u = new URL(process.env.DATABASE_URL);
const q = u.searchParams;
const limit = +(q.get('connection_limit') || 5);
u.search = '';
const pool = new Pool({
  connectionString: u.toString(),
  max: limit,
  idleTimeoutMillis: 0,
  application_name: 'prisma-engine-' + process.pid,
});
pool.on('error', (e) => elog('pool error ' + e.message));
let engine;
async function init() {
  const mod = new WebAssembly.Module(fs.readFileSync(R + 'query_engine_bg.postgresql.wasm'));
  const inst = new WebAssembly.Instance(mod, { './query_engine_bg.js': rt });
  rt.__wbg_set_wasm(inst.exports);
  if (inst.exports.__wbindgen_start) inst.exports.__wbindgen_start();
  engine = new rt.QueryEngine(
    {
      datamodel: schema,
      env: process.env,
      logQueries: false,
      ignoreEnvVarErrors: true,
      datasourceOverrides: {},
      logLevel: 'error',
      configDir: require('os').tmpdir(),
      engineProtocol: 'json',
    },
    (m) => elog('engine ' + String(m).slice(0, 300)),
    bindAdapter(new PrismaPg(pool)),
  );
  await pool.query('select 1'); // the native engine connects eagerly
  await engine.connect(JSON.stringify({ enableTracing: false }));
  elog('connected');
}
const ready = init().catch((e) => {
  elog('init failed ' + (e.stack || e));
  console.error(
    JSON.stringify({ is_panic: false, message: String(e.message || e), error_code: 'P1001' }),
  );
  process.exit(1);
});
const META = new RegExp(
  '^(findUnique|findFirst|findMany|createOne|createMany|updateOne|updateMany|upsertOne|deleteOne|deleteMany|aggregate|groupBy)(OrThrow)?(.*)$',
);
function val(n) {
  switch (n.kind) {
    case 'IntValue': {
      const i = Number(n.value);
      return Number.isSafeInteger(i) ? i : { $type: 'BigInt', value: n.value };
    }
    case 'FloatValue':
      return Number(n.value);
    case 'StringValue':
    case 'EnumValue':
      return n.value;
    case 'BooleanValue':
      return n.value;
    case 'NullValue':
      return null;
    case 'ListValue':
      return n.values.map(val);
    case 'ObjectValue':
      return Object.fromEntries(n.fields.map((f) => [f.name.value, val(f.value)]));
    default:
      throw Error('value ' + n.kind);
  }
}
const argsOf = (f, model) =>
  Object.fromEntries(
    (f.arguments || []).map((a) => [
      a.name.value,
      model ? typed(val(a.value), model) : val(a.value),
    ]),
  );
// which fields are Json or relations: prisma-client-py sends Json as a string, the JSON protocol wants a tagged value
const MODELS = {};
for (const m of schema.matchAll(/^model\s+(\w+)\s*\{([\s\S]*?)^\}/gm)) {
  const o = (MODELS[m[1]] = {});
  for (const l of m[2].split('\n')) {
    const f = /^\s*(\w+)\s+(\w+)(\[\])?\??/.exec(l);
    if (f) o[f[1]] = f[2];
  }
}
function jsonTag(v, k) {
  if (k === 'path' || k === 'mode') return v;
  if (typeof v === 'string') return { $type: 'Json', value: v };
  if (Array.isArray(v)) return v.map((x) => jsonTag(x));
  if (v && typeof v === 'object' && !('$type' in v))
    return Object.fromEntries(Object.entries(v).map(([a, x]) => [a, jsonTag(x, a)]));
  return v;
}
function typed(v, model) {
  if (Array.isArray(v)) return v.map((x) => typed(x, model));
  if (!v || typeof v !== 'object' || '$type' in v) return v;
  return Object.fromEntries(
    Object.entries(v).map(([k, x]) => {
      const t = MODELS[model]?.[k];
      if (t === 'Json') return [k, jsonTag(x, k)];
      if (t && MODELS[t]) return [k, typed(x, t)];
      if (t && !MODELS[t]) return [k, x];
      return [k, typed(x, model)];
    }),
  );
}
function sel(set) {
  const o = {};
  for (const f of set?.selections || []) {
    o[f.name.value] =
      f.selectionSet || f.arguments?.length
        ? { arguments: argsOf(f), selection: sel(f.selectionSet) }
        : true;
  }
  return o;
}
function toJson(q) {
  const doc = parse(q);
  const f = doc.definitions[0].selectionSet.selections[0];
  const name = f.name.value;
  const alias = f.alias?.value || name;
  if (/^(queryRaw|executeRaw)$/.test(name))
    return {
      alias,
      raw: true,
      body: { action: name, query: { arguments: argsOf(f), selection: {} } },
    };
  const m = META.exec(name);
  if (!m) throw Error('unknown operation ' + name);
  return {
    alias,
    body: {
      modelName: m[3],
      action: m[1] + (m[2] || ''),
      query: { arguments: argsOf(f, m[3]), selection: sel(f.selectionSet) },
    },
  };
}
function plain(v, raw) {
  if (Array.isArray(v)) return v.map((x) => plain(x, raw));
  if (v && typeof v === 'object') {
    if ('$type' in v && 'value' in v) {
      return v.$type === 'FieldRef' ? v : v.value;
    }
    return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, plain(x, raw)]));
  }
  return v;
}
let inflight = 0,
  count = 0;
async function one(body, tx) {
  const j = toJson(body.query);
  const r = JSON.parse(await engine.query(JSON.stringify(j.body), JSON.stringify({}), tx));
  if (r.errors) {
    if (process.env.QE_DEBUG)
      elog('ERR ' + JSON.stringify(r.errors).slice(0, 600) + ' FOR ' + body.query.slice(0, 400));
    return {
      errors: r.errors.map((e) => ({ error: e.error, user_facing_error: e.user_facing_error })),
    };
  }
  const d = plain(r.data);
  let out = d[Object.keys(d)[0]];
  if (OLD_RAW && j.raw && out && out.columns)
    out = out.rows.map((row) =>
      Object.fromEntries(
        row.map((v, i) => [
          out.columns[i],
          out.types[i].endsWith('-array') && Array.isArray(v)
            ? {
                prisma__type: 'array',
                prisma__value: v.map((x) => ({
                  prisma__type: out.types[i].slice(0, -6),
                  prisma__value: x,
                })),
              }
            : { prisma__type: v === null ? 'null' : out.types[i], prisma__value: v },
        ]),
      ),
    );
  return { data: { [j.alias]: out } };
}
const OLD_RAW = process.env.QE_OLD_RAW === '1'; // prisma-client-py before 0.15 wants typed rows from raw queries
async function batch(b, tx) {
  const js = b.batch.map((x) => toJson(x.query));
  const r = JSON.parse(
    await engine.query(
      JSON.stringify({ batch: js.map((j) => j.body), transaction: b.transaction ? {} : undefined }),
      JSON.stringify({}),
      tx,
    ),
  );
  if (r.errors) {
    elog('BATCH ERR ' + JSON.stringify(r.errors).slice(0, 600));
    return {
      errors: r.errors.map((e) => ({ error: e.error, user_facing_error: e.user_facing_error })),
    };
  }
  return {
    batchResult: r.batchResult.map((x, i) => {
      if (x.errors) return { errors: x.errors };
      const d = plain(x.data);
      return { data: { [js[i].alias]: d[Object.keys(d)[0]] } };
    }),
  };
}
const srv = http.createServer((req, res) => {
  let chunks = [];
  req.on('data', (c) => chunks.push(c));
  req.on('end', async () => {
    const text = Buffer.concat(chunks).toString();
    const tx = req.headers['x-transaction-id'];
    let out,
      code = 200;
    inflight++;
    count++;
    try {
      await ready;
      if (req.url === '/status') out = { status: 'ok' };
      else if (req.url.startsWith('/metrics')) out = { counters: [], gauges: [], histograms: [] };
      else if (req.url === '/transaction/start')
        out = JSON.parse(await engine.startTransaction(text, JSON.stringify({})));
      else if (/^\/transaction\/(.*)\/commit/.test(req.url))
        out = JSON.parse((await engine.commitTransaction(RegExp.$1, JSON.stringify({}))) || '{}');
      else if (/^\/transaction\/(.*)\/rollback/.test(req.url))
        out = JSON.parse((await engine.rollbackTransaction(RegExp.$1, JSON.stringify({}))) || '{}');
      else {
        const b = JSON.parse(text);
        out = b.batch ? await batch(b, tx) : await one(b, tx);
      }
    } catch (e) {
      elog('REQ ERR ' + (e.stack || e).toString().slice(0, 500) + ' FOR ' + text.slice(0, 300));
      out = {
        errors: [
          {
            error: String(e.message || e),
            user_facing_error: {
              is_panic: false,
              message: String(e.message || e),
              error_code: 'P2010',
              meta: {},
            },
          },
        ],
      };
    }
    inflight--;
    const s = JSON.stringify(out);
    res.writeHead(code, {
      'content-type': 'application/json',
      'content-length': Buffer.byteLength(s),
    });
    res.end(s);
  });
});
srv.keepAliveTimeout = 0;
srv.listen(port, '127.0.0.1');
// localhost may resolve to ::1 first
try {
  http
    .createServer(srv.listeners('request')[0])
    .on('error', () => {})
    .listen(port, '::1');
} catch (e) {}
