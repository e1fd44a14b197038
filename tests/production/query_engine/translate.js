// Between the GraphQL that prisma-client-py speaks and the JSON protocol that the engine speaks.
const path = require('path');
const { parse } = require(path.join(__dirname, 'node_modules', 'graphql'));

const OPERATION =
  /^(findUnique|findFirst|findMany|createOne|createMany|updateOne|updateMany|upsertOne|deleteOne|deleteMany|aggregate|groupBy)(OrThrow)?(.*)$/;
const RAW = /^(queryRaw|executeRaw)$/;

const isObject = (value) => value !== null && typeof value === 'object';
const mapValues = (object, change) =>
  Object.fromEntries(Object.entries(object).map(([key, value]) => [key, change(value, key)]));

// The types of each model's fields, by the model's name.
function modelsOf(schema) {
  const models = {};
  for (const [, name, body] of schema.matchAll(/^model\s+(\w+)\s*\{([\s\S]*?)^\}/gm)) {
    models[name] = {};
    for (const line of body.split('\n')) {
      const field = /^\s*(\w+)\s+(\w+)/.exec(line);
      if (field) models[name][field[1]] = field[2];
    }
  }
  return models;
}

function literal(node) {
  switch (node.kind) {
    case 'IntValue': {
      const number = Number(node.value);
      return Number.isSafeInteger(number) ? number : { $type: 'BigInt', value: node.value };
    }
    case 'FloatValue':
      return Number(node.value);
    case 'StringValue':
    case 'EnumValue':
    case 'BooleanValue':
      return node.value;
    case 'NullValue':
      return null;
    case 'ListValue':
      return node.values.map(literal);
    case 'ObjectValue':
      return Object.fromEntries(
        node.fields.map((field) => [field.name.value, literal(field.value)]),
      );
    default:
      throw Error('value ' + node.kind);
  }
}

// prisma-client-py sends JSON as a string, the JSON protocol wants a tagged value.
function tagged(value, key) {
  if (key === 'path' || key === 'mode') return value;
  if (typeof value === 'string') return { $type: 'Json', value };
  if (Array.isArray(value)) return value.map((each) => tagged(each));
  return isObject(value) && !('$type' in value) ? mapValues(value, tagged) : value;
}

function typed(value, model, models) {
  if (Array.isArray(value)) return value.map((each) => typed(each, model, models));
  if (!isObject(value) || '$type' in value) return value;
  return mapValues(value, (each, key) => {
    const type = models[model]?.[key];
    if (type === 'Json') return tagged(each, key);
    if (type && !models[type]) return each;
    return typed(each, type || model, models);
  });
}

const argumentsOf = (field, model, models) =>
  Object.fromEntries(
    (field.arguments || []).map((argument) => {
      const value = literal(argument.value);
      return [argument.name.value, model ? typed(value, model, models) : value];
    }),
  );

function selection(set) {
  const selected = {};
  for (const field of set?.selections || []) {
    selected[field.name.value] =
      field.selectionSet || field.arguments?.length
        ? { arguments: argumentsOf(field), selection: selection(field.selectionSet) }
        : true;
  }
  return selected;
}

// One query: what the engine is asked, and the name under which its answer is given.
function request(query, models) {
  const field = parse(query).definitions[0].selectionSet.selections[0];
  const name = field.name.value;
  const alias = field.alias?.value || name;
  if (RAW.test(name)) {
    return {
      alias,
      raw: true,
      body: { action: name, query: { arguments: argumentsOf(field), selection: {} } },
    };
  }
  const operation = OPERATION.exec(name);
  if (!operation) throw Error('unknown operation ' + name);
  const [, verb, orThrow, model] = operation;
  return {
    alias,
    raw: false,
    body: {
      modelName: model,
      action: verb + (orThrow || ''),
      query: {
        arguments: argumentsOf(field, model, models),
        selection: selection(field.selectionSet),
      },
    },
  };
}

// The engine's answer without its tags.
function plain(value) {
  if (Array.isArray(value)) return value.map(plain);
  if (!isObject(value)) return value;
  if ('$type' in value && 'value' in value) return value.$type === 'FieldRef' ? value : value.value;
  return mapValues(value, (each) => plain(each));
}

// prisma-client-py below 0.15 wants rows whose values say their types.
function typedRows({ columns, types, rows }) {
  const cell = (value, type) => ({
    prisma__type: value === null ? 'null' : type,
    prisma__value: value,
  });
  const column = (value, type) =>
    type.endsWith('-array') && Array.isArray(value)
      ? cell(
          value.map((each) => ({ prisma__type: type.slice(0, -6), prisma__value: each })),
          'array',
        )
      : cell(value, type);
  return rows.map((row) =>
    Object.fromEntries(row.map((value, index) => [columns[index], column(value, types[index])])),
  );
}

module.exports = { modelsOf, plain, request, typedRows };
