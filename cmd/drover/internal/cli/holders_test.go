package cli

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// home answers about the volume db of node host-b.
type home struct {
	Remote

	held dataset.Holders
	err  error // of VolumeHolders
	none error // of Volume
}

func (h home) VolumeHolders(context.Context, string) (dataset.Holders, error) { return h.held, h.err }

func (h home) Volume(context.Context, string) (v api.Volume, err error) {
	v.Volume, v.Node = "db", "host-b"
	return v, h.none
}

// TestRefusalSaysWhoUses: the first line is the unchanged error. If this host is the home, the holders follow,
// otherwise the node that knows them.
func TestRefusalSaysWhoUses(t *testing.T) {
	held := dataset.Holders{Node: "host-b", Unexamined: []string{"process 9"}}
	inUse := dataset.Errorf(dataset.ErrInUse, "volume db is in use")
	const first = "drover: volume db is in use\n"
	for name, c := range map[string]struct {
		err  error
		home home
		want string
	}{
		"home":            {inUse, home{held: held}, first + "drover: on node host-b: not examined, and may use it: process 9\n"},
		"nobody uses it":  {inUse, home{}, first},
		"no answer":       {inUse, home{err: dataset.ErrUnavailable}, first},
		"not in use":      {dataset.Errorf(dataset.ErrNotFound, "no volume db"), home{held: held}, "drover: no volume db\n"},
		"unknown to both": {inUse, home{err: dataset.ErrUnsupported, none: dataset.ErrUnavailable}, first},
		"another node": {
			inUse, home{err: dataset.ErrUnsupported},
			first + "drover: only node host-b knows who uses it: run drover volume inspect db there\n",
		},
	} {
		var out bytes.Buffer
		a := &App{ErrOut: &out}
		err := withHolders(t.Context(), c.home, api.Request{Volume: "db"}, c.err)
		if a.PrintError(t.Context(), err); out.String() != c.want || dataset.KindOf(err) != dataset.KindOf(c.err) {
			t.Errorf("%s: kind %v, %q, want %q", name, dataset.KindOf(err), out.String(), c.want)
		}
	}
	// A locked repository does not end with the containers of the volume.
	for _, kind := range []dataset.OpKind{dataset.OpBackup, dataset.OpPush, dataset.OpVerify, dataset.OpImport} {
		err := withHolders(t.Context(), home{held: held}, api.Request{Kind: kind, Volume: "db"}, inUse)
		if dataset.HoldersOf(err) != nil {
			t.Errorf("%s: the error names the holders of the volume", kind)
		}
	}
	// The home does not know who has mounted a superseded copy, which is on another node.
	req := api.Request{Kind: dataset.OpDiscard, Volume: "db"}
	err := withHolders(t.Context(), home{err: dataset.ErrUnsupported}, req, inUse)
	var elsewhere *elsewhereError
	if errors.As(err, &elsewhere) || !errors.Is(err, inUse) {
		t.Errorf("a superseded copy in use: %v", err)
	}
}

// TestHolderLines: each holder has a line, with the name of its container if the engine knows the name. Each part that
// could not be examined has a line too. If the engine does not answer, only the names are missing.
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
