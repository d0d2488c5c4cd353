package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// stall is how long a write may take, and the longest pause between two writes of one writer. No fault of a
// campaign blocks a volume with failover manual.
const stall = 20 * time.Second

// checkNotes checks the notes of one writer: every write succeeded, and no write took longer than stall. A writer of a
// volume with failover auto may have been fenced, so its writes may have failed.
func (s *scene) checkNotes(t testing.TB, v *volume, w *writer) {
	entries, err := witness.Logs(s.log(w))
	if err != nil {
		if out, rerr := os.ReadFile(s.log(w) + ".output"); rerr == nil && len(out) > 0 {
			t.Errorf("writer of %s on %s: %s", v.name, w.on.Name, out)
		}
		return
	}
	for i, e := range entries {
		if v.profile == auto {
			break
		}
		if e.Err != "" {
			t.Errorf("a write to %s on %s failed: %+v", v.name, w.on.Name, e)
		}
		if i > 0 && time.Duration(e.End-entries[i-1].End) > stall {
			t.Errorf("writing to %s on %s stood still for %s", v.name, w.on.Name, time.Duration(e.End-entries[i-1].End))
		}
	}
}

// judge compares what happened with the notes of the writers.
type judge struct {
	*scene
	restorer *restorer
}

// boottime returns the time of the writers' clock at a point in time.
func (s *scene) boottime(at time.Time) int64 {
	now, err := witness.Now()
	if err != nil {
		return 0
	}
	return now - int64(time.Since(at))
}

// verify waits until the cluster is healthy, and compares the volumes, and the answers that clients got, with the
// notes.
func (j *judge) verify(t testing.TB) {
	t.Helper()
	j.awaitWhole(t)
	entries, err := witness.Logs(filepath.Join(j.dir, "*.log"))
	require.NoError(t, err)
	var heads, all []witness.Copy
	losses := j.announced(t)
	for _, v := range j.volumes {
		now := j.current(t, v)
		head := j.Head(t, j.host(now.Node), v.name)
		heads, all = append(heads, head), append(all, head)
		all = append(all, j.supersededHeads(t, v)...)
		losses = append(losses, v.losses...)
	}
	// Losses that were announced explain the writes that a head lacks. Even these writes are kept in superseded
	// heads.
	for what, bad := range map[string][]string{
		"heads":                      witness.Check(entries, heads, losses, j.restorer.raised...),
		"heads and superseded heads": witness.Check(entries, all, nil, j.restorer.raised...),
	} {
		for _, b := range bad {
			t.Errorf("%s, of %d entries: %s", what, len(entries), b)
		}
	}
	for _, bad := range j.leases.Check(patience) {
		t.Error(bad)
	}
}

// announced returns the losses that automatic promotions announced, if the promotion succeeded. An operator who
// asks for a promotion learns of the loss from the answer.
func (j *judge) announced(t testing.TB) (losses []witness.Loss) {
	t.Helper()
	c := j.Controls[0].Client(t)
	defer c.Close()
	ops, err := operations(t.Context(), c)
	require.NoError(t, err)
	for _, op := range j.restorer.announcedBy(ops) {
		j.report.count("failovers")
		losses = append(losses, witness.Loss{
			Dataset: op.DatasetID.String(),
			Epoch:   op.Epoch,
			After:   j.boottime(op.Loss.Taken),
		})
	}
	return losses
}

// operations returns all recorded operations. A long run has more than one page of them.
func operations(ctx context.Context, c *client.Client) (list []dataset.Operation, err error) {
	for page := (api.Page{}); ; {
		ops, err := c.Operations(ctx, page)
		if list = append(list, ops.Items...); err != nil || ops.Next == "" {
			return list, err
		}
		page.After = ops.Next
	}
}

// host returns the host with a name.
func (s *scene) host(name string) *cluster.Host {
	for _, h := range s.Hosts {
		if h.Name == name {
			return h
		}
	}
	return nil
}

// current returns what control reports about a volume.
func (s *scene) current(t testing.TB, v *volume) api.Volume {
	t.Helper()
	var now api.Volume
	s.Controls[0].JSON(t, &now, "volume", "inspect", v.name)
	return now
}

// awaitWhole waits until every part is running again and every operation has ended.
func (j *judge) awaitWhole(t testing.TB) {
	t.Helper()
	j.Net.Heal()
	j.Consul.AwaitLeader()
	for _, control := range j.Controls {
		c := control.Client(t)
		defer c.Close()
		host.Await(t, "the cluster is whole", func() error {
			if err := j.restorer.recover(t.Context(), t); err != nil {
				return err
			}
			nodes, err := c.NodeList(t.Context(), "")
			if err != nil {
				return err
			}
			for _, n := range nodes {
				if !n.Live {
					return fmt.Errorf("node %s is unreachable", n.Name)
				}
			}
			ops, err := operations(t.Context(), c)
			for _, op := range ops {
				if !op.State.Final() {
					err = errors.Join(err, fmt.Errorf("operation %s is %s: %+v", op.ID, op.State, op))
				}
			}
			return err
		})
	}
}

// supersededHeads reads the superseded heads of a volume, as soon as they are kept.
func (j *judge) supersededHeads(t testing.TB, v *volume) []witness.Copy {
	t.Helper()
	kept := false
	defer func() {
		if !kept {
			j.explain(t, v, j.Hosts...)
		}
	}()
	var now api.Volume
	host.Await(t, "the superseded heads of "+v.name+" are kept", func() error {
		now = j.current(t, v)
		for _, c := range now.CopyDetails {
			if c.Kind == dataset.CopySuperseded && c.Snapshot == uuid.Nil {
				return fmt.Errorf("%s has a head of epoch %d", c.NodeName, c.Epoch)
			}
		}
		return nil
	})
	kept = true
	copies := v.releasedHeads
	for _, c := range now.CopyDetails {
		if c.Kind == dataset.CopySuperseded {
			copies = append(copies, j.superseded(t, v, c)...)
		}
	}
	return copies
}

// explain prints the reports of hosts about a volume.
func (s *scene) explain(t testing.TB, v *volume, hosts ...*cluster.Host) {
	for _, h := range hosts {
		r := h.Exec(t, "doctor")
		for line := range strings.Lines(h.Log() + h.Guard.Log() + r.Out) {
			if strings.Contains(line, v.id.String()) || strings.Contains(line, v.name) {
				t.Logf("%s: %s", h.Name, line)
			}
		}
	}
}

// releaseSuperseded lets an operator examine the superseded heads of a volume and release them. Until then the
// volume cannot return to their nodes.
func (j *judge) releaseSuperseded(ctx context.Context, t testing.TB, v *volume) {
	control := j.Controls[0]
	c := control.Client(t)
	defer c.Close()
	now, err := c.Volume(ctx, v.name)
	if err != nil {
		return
	}
	for _, kept := range now.CopyDetails {
		if kept.Kind != dataset.CopySuperseded || kept.Snapshot == uuid.Nil {
			continue
		}
		copies := j.superseded(t, v, kept)
		v.mu.Lock()
		v.releasedHeads = append(v.releasedHeads, copies...)
		v.mu.Unlock()
		r := api.Request{ID: uuid.New(), Kind: dataset.OpDiscard, Volume: v.name, Node: kept.NodeName}
		if _, err := j.ask(ctx, t, control, r); err != nil {
			continue
		}
		j.report.count("superseded heads discarded")
	}
}

// superseded reads one superseded head. It returns nothing if the head no longer exists.
func (s *scene) superseded(t testing.TB, v *volume, c api.CopyDetail) (copies []witness.Copy) {
	t.Helper()
	h := s.host(c.NodeName)
	pool := filepath.Join(h.Host.Dir, "disk", "pool")
	found, err := filepath.Glob(h.File(filepath.Join(pool, "*", v.id.String(), c.Snapshot.String()+".img")))
	assert.NoError(t, err)
	if len(found) == 0 {
		return nil
	}
	err = h.On.Do(func() error {
		at := filepath.Join(h.Host.Dir, "aside-"+c.Snapshot.String())
		if err := os.Mkdir(at, 0o700); err != nil {
			return err
		}
		image := filepath.Join(h.Host.Dir, "disk", filepath.Base(at))
		if err := reflinked(found[0], image); err != nil {
			return err
		}
		dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{BlockSize: 4096})
		if err != nil {
			return err
		}
		defer dev.Close()
		if err := mount.Mount(at, mount.Spec{Source: dev.Path, FSType: "ext4"}); err != nil {
			return err
		}
		c, err := witness.ReadFile(v.id.String(), v.name+" superseded on "+h.Name, filepath.Join(at, cluster.Tokens))
		copies = append(copies, c)
		return errors.Join(err, mount.Unmount(at), os.Remove(at), os.Remove(image))
	})
	assert.NoErrorf(t, err, "superseded head of %s on %s", v.name, h.Name)
	return copies
}

// reflinked makes a copy of an image that shares its blocks. Mounting the image itself would change it.
func reflinked(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	return errors.Join(unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())), dst.Close())
}
