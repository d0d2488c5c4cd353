package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/nodes"
	"github.com/droverhq/drover/cmd/drover/internal/status"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/test/golden"
	"github.com/droverhq/drover/test/require"
)

// console is an App with a fake server, and the output of the App.
type console struct {
	*cli.App
	fake     *fake
	env      map[string]string
	out, err bytes.Buffer
	slept    int
	guard    fenceFake
}

func newConsole(f *fake) *console {
	c := &console{fake: f, env: map[string]string{}, guard: fenceFake{list: guarded()}}
	c.App = &cli.App{
		Version: "1.2.3", In: strings.NewReader(""), Out: &c.out, ErrOut: &c.err,
		Getenv: func(k string) string { return c.env[k] },
		Now:    func() time.Time { return now },
		NewID:  func() uuid.UUID { return idReq },
		Sleep: func(ctx context.Context, d time.Duration) error {
			if d == status.ExamineAfter { // the lists of a fake server come at once
				<-ctx.Done()
				return ctx.Err()
			}
			c.slept++
			return ctx.Err()
		},
		Signals: context.WithCancel,
		Dial:    func(string) (cli.Remote, error) { return f, nil },
		Fencer:  func(string) (cli.Fencer, error) { return &c.guard, nil }, Boottime: func() time.Duration { return time.Hour },
		VerifyPool: proven, CheckKey: func(string) error { return nil }, Authority: nodes.DefaultAuthority,
		DockerPath: func(_ context.Context, volume string, live bool) (string, error) {
			if volume == "busy" && !live {
				return "", dataset.Errorf(dataset.ErrInUse, `docker volume "busy" is in use by web`)
			}
			return "/var/lib/docker/volumes/" + volume + "/_data", nil
		},
	}
	return c
}

func (c *console) run(t *testing.T, args ...string) int {
	t.Helper()
	return execute(requestid.With(t.Context(), "4f1d0a7c2b9e"), c.App, args)
}

// TestTranscripts runs the commands of testdata/*.txt and compares their complete output. A line "$ drover …" is a
// command, and "$ [SCENARIO] drover …" is a command in another scenario. "! " begins a line of standard error, "> " a
// change that was requested from the server, and "= " an exit code other than 0.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			got := transcript(t, string(b), func(f *fake) cli.Remote { return f })
			golden.Check(t, file, got)
			if d := cmp.Diff(got, transcript(t, string(b), overTheWire(t))); d != "" {
				t.Errorf("%s goes otherwise over the API:\n%s", file, d)
			}
		})
	}
}

// overTheWire connects the commands to the fake through the handlers and the client of the API. All commands of a test use
// the same handlers, because making them takes longer than a command.
func overTheWire(t *testing.T) func(f *fake) cli.Remote {
	s := &service{}
	c := loopback.New(server.Handler(server.Deps{Service: s, Local: s, Backup: s, Members: s}))
	t.Cleanup(c.Close)
	return func(f *fake) cli.Remote {
		s.fake = f
		return c
	}
}

// service is a fake that no agent asks.
type service struct {
	*fake
	api.Nodes
}

func transcript(t *testing.T, script string, server func(*fake) cli.Remote) string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(script) {
		switch {
		case strings.HasPrefix(line, "$ "):
			b.WriteString(line)
			scenario, args, err := parse(strings.TrimSpace(line[2:]))
			require.NoErrorf(t, err, "%q", line)
			b.WriteString(session(t, scenario, args, server))
		case strings.HasPrefix(line, "# "):
			b.WriteString(line)
		}
	}
	return b.String()
}

func session(t *testing.T, scenario string, args []string, server func(*fake) cli.Remote) string {
	t.Helper()
	c := newConsole(theWorld())
	scenarios[scenario](c)
	c.Dial = func(string) (cli.Remote, error) { return server(c.fake), nil }
	code := c.run(t, args...)
	var b strings.Builder
	b.WriteString(c.out.String())
	for line := range strings.Lines(c.err.String()) {
		b.WriteString("! " + line)
	}
	for _, line := range c.fake.asked {
		b.WriteString("> " + line + "\n")
	}
	if c.slept > 0 {
		fmt.Fprintf(&b, "> slept %d times\n", c.slept)
	}
	if code != 0 {
		fmt.Fprintf(&b, "= %d\n", code)
	}
	return b.String() + "\n"
}

// parse reads a command line of a transcript; words may be "quoted".
func parse(line string) (scenario string, args []string, err error) {
	if rest, ok := strings.CutPrefix(line, "["); ok {
		if scenario, line, ok = strings.Cut(rest, "] "); !ok {
			return "", nil, errors.New("no end of the scenario")
		}
	}
	if scenarios[scenario] == nil {
		return "", nil, fmt.Errorf("no scenario %q", scenario)
	}
	line, ok := strings.CutPrefix(line, "drover")
	if !ok {
		return "", nil, errors.New("not drover")
	}
	for i, part := range strings.Split(line, `"`) {
		if i%2 == 1 {
			args = append(args, part)
		} else {
			args = append(args, strings.Fields(part)...)
		}
	}
	return scenario, args, nil
}

// copiesOn returns copies like c on several nodes.
func copiesOn(c dataset.Copy, nodes ...string) (all []api.CopyDetail) {
	for _, n := range nodes {
		all = append(all, api.CopyDetail{Copy: c, NodeName: n})
	}
	return all
}
