package host

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/test/require"
)

// Result is the result of a command.
type Result struct {
	Out, Err string
	Exit     int
}

// FirstError returns the first line of Err. Lines about the holders of a volume follow it.
func (r Result) FirstError() string {
	line, _, _ := strings.Cut(r.Err, "\n")
	return line
}

// Exec runs a command of the drover command line.
func (h *Host) Exec(t testing.TB, args ...string) Result {
	t.Helper()
	return h.ExecIn(t, nil, args...)
}

// ExecIn is Exec with standard input.
func (h *Host) ExecIn(t testing.TB, in []byte, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	args = append([]string{Binary(t)}, args...)
	if h.opts.On != nil {
		args = h.opts.On.Command(args...)
	}
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &errOut
	cmd.Env = append(os.Environ(), "DROVER_API="+h.API(), "DROVER_CLOCK="+h.clock())
	err := cmd.Run()
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return Result{Out: out.String(), Err: errOut.String(), Exit: cmd.ProcessState.ExitCode()}
}

// Must is Exec for a command that must succeed. It returns the output without the last newline.
func (h *Host) Must(t testing.TB, args ...string) string {
	t.Helper()
	r := h.Exec(t, args...)
	if r.Exit != 0 {
		t.Fatalf("drover %s: exit %d\n%s%s", strings.Join(args, " "), r.Exit, r.Out, r.Err)
	}
	return strings.TrimRight(r.Out, "\n")
}

// JSON is Must with -o json, decoded into v.
func (h *Host) JSON(t testing.TB, v any, args ...string) {
	t.Helper()
	out := h.Must(t, append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("drover %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// Client returns a client of the API.
func (h *Host) Client(t testing.TB) *client.Client {
	t.Helper()
	c, err := client.New(h.API())
	require.NoError(t, err)
	return c
}

// Findings returns what doctor finds. The exit code of doctor is 1 if a finding needs attention.
func (h *Host) Findings(t testing.TB) (findings []api.Finding) {
	t.Helper()
	r := h.Exec(t, "doctor", "-o", "json")
	if err := json.Unmarshal([]byte(r.Out), &findings); err != nil || r.Exit > 1 {
		t.Fatalf("doctor: exit %d, %v\n%s%s", r.Exit, err, r.Out, r.Err)
	}
	return findings
}

// Clean fails the test if doctor reports a problem that is not allowed.
func (h *Host) Clean(t testing.TB, allowed ...string) {
	t.Helper()
next:
	for _, f := range h.Findings(t) {
		missing := condition.BackendUnavailable.Is(f) || condition.EncryptionUnavailable.Is(f) // and not needed
		memory := condition.PoolInMemory.Is(f) || condition.PoolOvercommitted.Is(f)            // a test saves space
		if f.Level == "ok" || missing || memory {
			continue
		}
		for _, a := range allowed {
			if strings.Contains(f.Subject+": "+f.Text, a) {
				continue next
			}
		}
		t.Errorf("doctor: %s: %s: %s", f.Level, f.Subject, f.Text)
	}
}

func (h *Host) logFile() string { return filepath.Join(h.Dir, "drover.log") }

// Log returns everything that drover has logged.
func (h *Host) Log() string {
	b, _ := os.ReadFile(h.logFile())
	return string(b)
}

// ErrorLines returns the lines of the log with an error.
func (h *Host) ErrorLines() (lines []string) {
	for line := range strings.Lines(h.Log()) {
		words := strings.Fields(line)
		if len(words) > 1 && words[1] == "ERROR" {
			lines = append(lines, line)
		}
	}
	return lines
}

// LogTail returns the last lines of the log.
func (h *Host) LogTail(lines int) string {
	all := strings.Split(strings.TrimSpace(h.Log()), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// Metrics returns the metrics without labels.
func (h *Host) Metrics(t testing.TB) map[string]float64 {
	t.Helper()
	tr := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", strings.TrimPrefix(h.API(), "unix://"))
	}}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr}).Get("http://drover/metrics")
	require.NoError(t, err)
	defer resp.Body.Close()
	out := map[string]float64{}
	for s := bufio.NewScanner(resp.Body); s.Scan(); {
		name, value, ok := strings.Cut(s.Text(), " ")
		if v, err := strconv.ParseFloat(value, 64); ok && err == nil {
			out[name] = v
		}
	}
	return out
}
