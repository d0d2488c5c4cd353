// Package monitoring tests the files in deploy: the alerts with promtool, and the queries of the dashboards with a
// Prometheus that scrapes a drover. Both programs are in Debian's package prometheus.
package monitoring

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { engine.Main(m) }

const (
	rules     = "../../deploy/prometheus/drover.rules.yaml"
	ruleTests = "../../deploy/prometheus/drover.rules.test.yaml"
	dashboard = "../../deploy/grafana/drover.json"
	page      = "../../docs/metrics.md"
)

func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("promtool", args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (scripts/deps.sh test installs it)\n%s", strings.Join(args, " "), err, out)
	}
}

func read(t *testing.T, file string, into any) {
	t.Helper()
	text, err := os.ReadFile(file)
	if err == nil {
		err = yaml.Unmarshal(text, into) // JSON is YAML
	}
	require.NoErrorf(t, err, "%s", file)
}

type ruleFile struct {
	Groups []struct {
		Rules []struct{ Alert, Expr string }
	}
}

// TestRules runs promtool's tests of the alerts: each one fires and is resolved again.
func TestRules(t *testing.T) {
	promtool(t, "check", "rules", rules)
	promtool(t, "test", "rules", ruleTests)
	var file ruleFile
	read(t, rules, &file)
	var tests struct {
		Tests []struct {
			AlertRuleTest []struct {
				AlertName string `yaml:"alertname"`
				Expected  []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	read(t, ruleTests, &tests)
	tested := map[string]string{}
	for _, test := range tests.Tests {
		for _, at := range test.AlertRuleTest {
			tested[at.AlertName] += map[bool]string{true: "fires ", false: "quiet "}[len(at.Expected) > 0]
		}
	}
	for _, r := range file.Groups[0].Rules {
		if tested[r.Alert] != "quiet fires quiet " {
			t.Errorf("%s: tested are %q, want quiet, fires, quiet", r.Alert, tested[r.Alert])
		}
		wantMetrics(t, r.Alert, r.Expr)
	}
}

// wantMetrics fails if a query asks for a metric of Drover that does not exist.
func wantMetrics(t *testing.T, what, query string) {
	t.Helper()
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	for _, name := range regexp.MustCompile(`drover_\w+`).FindAllString(query, -1) {
		family := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")
		if !strings.Contains(string(text), "| `"+family+"` |") {
			t.Errorf("%s asks for %s, which docs/metrics.md does not list", what, name)
		}
	}
}

type panels struct {
	Panels []struct {
		Title   string
		Targets []struct{ Expr string }
	}
}

// TestDashboard starts a drover and a Prometheus that scrapes it. The query of each panel returns data.
func TestDashboard(t *testing.T) {
	var board panels
	read(t, dashboard, &board)
	metrics, web := freeAddress(t), freeAddress(t)
	h := host.Start(t, host.Options{Flags: []string{"--metrics-listen", metrics}})
	plug := h.Plug(t)
	call := func(method string, request map[string]any) host.Answer {
		t.Helper()
		a, err := plug.Call("VolumeDriver."+method, request)
		require.NoError(t, err)
		return a
	}
	call("Create", map[string]any{"Name": "db@gold"})
	mounted := call("Mount", map[string]any{"Name": "db@gold", "ID": "one"}).Mountpoint
	defer func() { call("Unmount", map[string]any{"Name": "db@gold", "ID": "one"}) }()
	startPrometheus(t, metrics, web)
	missing := map[string]string{}
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			wantMetrics(t, p.Title, target.Expr)
			missing[p.Title] = strings.ReplaceAll(target.Expr, "$__rate_interval", "10s")
		}
	}
	number := 0
	host.Await(t, "each panel has data", func() error {
		number++
		call("List", map[string]any{})
		work(t, h, mounted, number)
		for title, query := range missing {
			if n, err := series(t, web, query); err == nil && n > 0 {
				delete(missing, title)
			} else if err != nil {
				return err
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("no data for %v", missing)
		}
		return nil
	})
}

// work reads and writes the volume, and has operations, calls and requests counted.
func work(t *testing.T, h *host.Host, mounted string, number int) {
	t.Helper()
	file, err := os.Create(filepath.Join(mounted, fmt.Sprintf("f%d", number)))
	require.NoError(t, err)
	defer file.Close()
	_, err = file.Write(make([]byte, 1<<20))
	require.NoError(t, err)
	require.NoError(t, file.Sync())
	h.Must(t, "snapshot", "create", "db")
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	return l.Addr().String()
}

// startPrometheus starts a Prometheus that scrapes one address each second, and evaluates the rules that ship as often,
// until the end of the test.
func startPrometheus(t *testing.T, metrics, web string) {
	t.Helper()
	alerts, err := filepath.Abs(rules)
	require.NoError(t, err)
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	text := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\n"+
		"scrape_configs: [{job_name: drover, static_configs: [{targets: [%q]}]}]\n", alerts, metrics)
	require.NoError(t, os.WriteFile(config, []byte(text), 0o600))
	p, err := child.Start(child.Spec{
		Args: []string{
			"prometheus", "--config.file", config, "--storage.tsdb.path", filepath.Join(dir, "data"),
			"--web.listen-address", web,
		},
		Log: filepath.Join(dir, "log"),
	})
	if err != nil {
		t.Fatalf("start Prometheus: %v (scripts/deps.sh test installs it)", err)
	}
	t.Cleanup(func() {
		assert.NoError(t, p.End(syscall.SIGTERM, time.Minute))
	})
	host.Await(t, "Prometheus answers", func() error {
		_, err := series(t, web, "vector(1)")
		return err
	})
}

// series returns the number of series that a query returns.
func series(t *testing.T, web, query string) (int, error) {
	t.Helper()
	target := "http://" + web + "/api/v1/query?query=" + url.QueryEscape(query)
	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, target, nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []any }
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		return 0, fmt.Errorf("query %s: %w %s", query, err, answer.Error)
	}
	return len(answer.Data.Result), nil
}

// TestCommandsOfAlerts: the command of each alert exists.
func TestCommandsOfAlerts(t *testing.T) {
	text, err := os.ReadFile("../../docs/cli.md")
	require.NoError(t, err)
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert       string
				Annotations struct{ Command string }
			}
		}
	}
	read(t, rules, &file)
	for _, r := range file.Groups[0].Rules {
		command := regexp.MustCompile(`^drover [a-z]+( [a-z]+)*`).FindString(r.Annotations.Command)
		if strings.HasPrefix(r.Annotations.Command, "drover") && !strings.Contains(string(text), "\n## "+command+"\n") {
			t.Errorf("%s: docs/cli.md has no %q", r.Alert, command)
		}
	}
}
