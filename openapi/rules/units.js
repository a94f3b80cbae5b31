// Fields and parameters whose names match an entry say what it says in their description, or have its format.
export default (given, entries) => {
  const fields = typeof given.name === 'string' && given.in ? [[given.name, given]] : Object.entries(given);
  return fields.flatMap(([name, field]) =>
    entries
      .filter((e) => new RegExp(e.name).test(name))
      .filter((e) => (e.says ? !new RegExp(e.says).test(field.description ?? '') : field.format !== e.format))
      .map((e) => ({ message: e.says ? `${name} does not say ${e.says}` : `${name} has not the format ${e.format}` })),
  );
};
