// Numbers of several runs, for people.

export const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

export const quantile = (sorted, q) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))];

/** One figure of several runs: the median, and between what it lay. */
export function spread(runs, key, digits = 0) {
  const values = runs.map((one) => one[key]);
  return `${median(values).toFixed(digits)} (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)})`;
}
