// An operation documents the statuses that follow from what it takes.
export default (op, _, { path, documentInventory }) => {
  const item = documentInventory.resolved.paths[path[1]];
  const params = [...(item.parameters ?? []), ...(op.parameters ?? [])];
  const takes = (place, name) => params.some((p) => p.in === place && (!name || p.name === name));
  const anonymous = op.security?.length === 0;
  const wanted = [
    [!anonymous, '401', '500', '503'],
    [takes('path'), '404'],
    [takes('query') || takes('header') || op.requestBody, '400'],
    [takes('header', 'If-Match'), '412'],
    [takes('header', 'Idempotency-Key'), '413', '422'],
    [op.requestBody, '413', '415'],
  ].flatMap(([needed, ...statuses]) => (needed ? statuses : []));
  return [...new Set(wanted)].filter((status) => !op.responses?.[status]).map((status) => ({ message: `${status} is not documented` }));
};
