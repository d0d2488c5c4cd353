package cli

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/dataset"
)

// TestHolderLines: each holder has a line, the containers with the names that the engine knows, and what could not be
// examined has one too. An engine that does not answer takes away only the names.
func TestHolderLines(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	container := dataset.Holder{
		Kind: dataset.HolderContainer, PID: 7, Command: "sleep", User: "root", Path: "/data", Container: id, Engine: "docker",
	}
	process := dataset.Holder{Kind: dataset.HolderProcess, PID: 8, Command: "a\x1b[2Jb", User: "root", Path: "log"}
	short := "docker container 0123456789ab at /data: process 7 (sleep, root); to free it: docker stop 0123456789ab"
	for name, c := range map[string]struct {
		held  dataset.Holders
		names func(context.Context) (map[string]string, error)
		want  []string
	}{
		"nobody": {},
		"name": {
			dataset.Holders{List: []dataset.Holder{container}, Total: 1},
			func(context.Context) (map[string]string, error) { return map[string]string{id: "web"}, nil },
			[]string{"docker container web (0123456789ab) at /data: process 7 (sleep, root); to free it: docker stop web"},
		},
		"no engine": {
			dataset.Holders{List: []dataset.Holder{container}, Total: 1},
			func(context.Context) (map[string]string, error) { return nil, errors.New("no engine") }, []string{short},
		},
		"hanging engine": {
			dataset.Holders{List: []dataset.Holder{container}, Total: 1},
			func(ctx context.Context) (map[string]string, error) { <-ctx.Done(); return nil, ctx.Err() }, []string{short},
		},
		"process": {
			dataset.Holders{List: []dataset.Holder{process}, Total: 4, Unexamined: []string{"process 9"}},
			func(context.Context) (map[string]string, error) { panic("the engine is asked for no container") },
			[]string{
				`process 8 (a\x1b[2Jb, root) has log open; to free it: end process 8`, "3 further holders are not listed",
				"not examined, and may use it: process 9",
			},
		},
	} {
		a := &App{ContainerNames: c.names}
		if got := a.HolderLines(t.Context(), c.held); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
