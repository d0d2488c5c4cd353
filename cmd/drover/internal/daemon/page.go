package daemon

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// introduction begins docs/metrics.md.
const introduction = `# Metrics

Every process of Drover serves metrics in Prometheus' text format, at ` + "`/metrics`" + ` of its socket and, with
` + "`--metrics-listen 127.0.0.1:9469`" + `, on a loopback address. [Alerts](operations.md#alerts) describes how to use
them. This page is generated from the code: ` + "`go test ./cmd/drover/internal/daemon -update`" + ` writes it.

The column *process* says where a metric is found: *agent* (` + "`drover agent`" + `),
*control* (` + "`drover control`" + `) or both. ` + "`drover serve`" + ` has all of them.
A counter only grows, until the process restarts. A histogram has the series ` + "`_bucket`, `_sum` and `_count`" + `.
Go's and the process's own metrics (` + "`go_…`, `process_…`" + `) come with them.
If a part cannot be read, for instance because the store does not answer, the response lacks it, and
` + "`promhttp_metric_handler_errors_total{cause=\"gathering\"}`" + ` counts the request.

Metrics with the label ` + "`volume`" + ` have a series for each volume that is or was mounted. Switch them off in
drover.yaml if a host has more volumes than your Prometheus should store:

` + "```yaml" + `
metrics:
  volumes: false
` + "```" + `

| metric | type | unit | labels | process | meaning |
|---|---|---|---|---|---|
`

// Markdown returns the page docs/metrics.md.
func Markdown() string {
	var b strings.Builder
	b.WriteString(introduction)
	for _, f := range Families() {
		unit, labels := cmp.Or(f.unit, "–"), "–"
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		process := f.on
		if process == onAll {
			process = "agent, control"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", f.name, f.kind, unit, labels, process, f.help)
	}
	return b.String()
}

// Families returns all metrics, by name.
func Families() []*Family {
	return slices.SortedFunc(slices.Values(catalog), func(a, b *Family) int { return cmp.Compare(a.name, b.name) })
}
