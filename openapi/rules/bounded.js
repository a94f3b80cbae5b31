const isBoundedText = (s) => s.maxLength || s.enum || ['uuid', 'date-time'].includes(s.format) || /^\^\[[^\]]+\]\{\d+\}\$$/.test(s.pattern ?? '');

// What a client may send has an end. The option `except` names fields for which something else sees to that.
export default (schema, { except }, { path, documentInventory }) => {
  const found = [];
  const walk = (s, at) => {
    if (at.some((name) => name in except)) return;
    const fault = (message) => found.push({ message: `${message}: ${at.join('.') || 'the value'}`, path });
    if (s.allOf) fault('allOf in a request');
    if (s.type === 'string' && !isBoundedText(s)) fault('a text without a bound');
    if (s.type === 'array' && !s.maxItems) fault('a list without a bound');
    if (s.type === 'object' && s.additionalProperties !== false && !s.maxProperties) fault('an object that takes unknown fields');
    for (const [name, child] of Object.entries(s.properties ?? {})) walk(child, [...at, name]);
    for (const child of s.oneOf ?? []) walk(child, at);
    if (s.items) walk(s.items, [...at, '[]']);
    if (s.additionalProperties?.type) walk(s.additionalProperties, [...at, '{}']);
  };
  const owner = path.slice(0, -1).reduce((v, key) => v[key], documentInventory.resolved);
  walk(schema, owner.name ? [owner.name] : []);
  return found;
};
