package mounting

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/plugin"
)

// Needed returns a function that reports whether a container of the calling engine may need a volume by a spelling. A
// program that is no engine has no containers. For an engine whose containers cannot be seen, each spelling counts as
// needed.
func (m *Mounts) Needed(ctx context.Context) func(d dataset.Dataset, spelling string) bool {
	caller, tool := plugin.Caller(ctx), plugin.ToolOf(ctx)
	var names map[string]bool
	var err error
	switch {
	case tool == plugin.Docker && caller.IsKnown():
		names, err = dockerVolumes(caller)
	case tool != "" || !caller.IsKnown():
		err = errors.New("its containers cannot be seen")
	}
	if err != nil {
		m.Log.WithError(err).Debug("each spelling of a volume counts as used by a container")
	}
	return func(d dataset.Dataset, spelling string) bool {
		return err != nil || names[spelling] || m.Cache.UsedByPodman(d)
	}
}

// dockerVolumes returns the names of the volumes that the containers of a Docker engine have, whether or not they run.
// It reads the engine's files (containers/*/config.v2.json), because the service must not call an engine that waits for
// it. The directory with these files is that of a file that the engine always has open: its list of volumes.
func dockerVolumes(engine process.Identity) (map[string]bool, error) {
	proc := fmt.Sprintf("/proc/%d/", engine.PID)
	open, err := filepath.Glob(proc + "fd/*")
	if err != nil {
		return nil, err
	}
	root := ""
	for _, fd := range open {
		if file, err := os.Readlink(fd); err == nil && strings.HasSuffix(file, "/volumes/metadata.db") {
			root = strings.TrimSuffix(file, "/volumes/metadata.db")
		}
	}
	if root == "" {
		return nil, errors.New("the engine has no list of volumes open")
	}
	containers, err := os.ReadDir(proc + "root" + root + "/containers")
	if err != nil {
		return nil, err
	}
	names := map[string]bool{}
	for _, c := range containers {
		b, err := os.ReadFile(proc + "root" + root + "/containers/" + c.Name() + "/config.v2.json")
		if errors.Is(err, os.ErrNotExist) {
			continue // the container is being made or removed
		}
		var config struct {
			MountPoints map[string]struct{ Name string }
		}
		if err == nil {
			err = json.Unmarshal(b, &config)
		}
		if err != nil {
			return nil, err
		}
		for _, m := range config.MountPoints {
			names[m.Name] = true
		}
	}
	if ended, err := engine.HasEnded(); ended || err != nil {
		return nil, errors.Join(err, errors.New("the engine has ended"))
	}
	return names, nil
}
