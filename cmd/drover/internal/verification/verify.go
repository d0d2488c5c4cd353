// Package verification has the commands of drover backend, which test a backend on a pool of this host, and runs the
// suite of package backends/backendtest. Each run has a folder in the pool, a sandbox, which package trialdir locks.
// The package keeps no state in memory.
package verification

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/backends/verify"
	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Command makes drover backend with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "backend",
		Short: "Test storage backends",
	},
		newBackendVerifyCmd(a),
	)
}

// Start runs this program with args, which must call Inside for the folder at path. It calls hear with each event until
// the process has ended. When ctx ends, it kills the process and fails with dataset.ErrCancelled. It fails with the
// error of hear, and with a problem that the process reports. The process never outlives the caller.
func Start(ctx context.Context, args []string, path string, hear func(verify.Event) error) error {
	// Pdeathsig kills the process when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "/proc/self/exe", args...)
	cmd.Stderr = &stderr
	cmd.Cancel = func() error { return kill(cmd.Process, path) }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		// Go makes all mounts in the new namespace private (golang.org/issue/19661).
		Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL,
		Setpgid: true, // a Ctrl-C for the command must not reach it
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return fmt.Errorf("start the suite: %w", err)
	}
	heard := follow(out, hear)
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return dataset.Errorf(dataset.ErrCancelled, "interrupted: nothing was verified")
	case heard != nil:
		return heard
	case err != nil:
		text := stderr.String()
		return fmt.Errorf("the suite ended early: %w: %s", err, text[:min(len(text), 2<<10)])
	}
	return nil
}

// kill kills a process. The process does not end while one of its threads waits for a filesystem that it has frozen, so
// kill thaws the filesystems.
func kill(p *os.Process, path string) error {
	err := p.Kill()
	for p.Signal(syscall.Signal(0)) == nil {
		err = errors.Join(err, trialdir.Thaw(path))
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// follow passes events to hear until there are no more. After an error it reads and discards the rest, so that the
// writer never waits.
func follow(r io.Reader, hear func(verify.Event) error) error {
	defer func() { _, _ = io.Copy(io.Discard, r) }()
	dec := json.NewDecoder(r)
	for {
		var e verify.Event
		if err := dec.Decode(&e); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return nil
			}
			return fmt.Errorf("read the report of the suite: %w", err)
		}
		if e.Problem != "" {
			return errors.New(e.Problem)
		}
		if err := hear(e); err != nil {
			return err
		}
	}
}

// Inside runs in the separate process. It runs the suite in the folder at path and writes the events to w, as lines of
// JSON. An error becomes an event with a Problem. Inside fails only if it cannot write.
func Inside(ctx context.Context, kind backends.Kind, path string, w io.Writer) error {
	enc := json.NewEncoder(w)
	tell := func(e verify.Event) error { return enc.Encode(e) }
	err := unmountOthers(path)
	if err == nil {
		err = verify.Suite(ctx, kind, path, tell)
	}
	if err != nil {
		return tell(verify.Event{Problem: err.Error()})
	}
	return nil
}

// unmountOthers unmounts all mounts of this namespace except those that the suite and its commands need. Otherwise
// these mounts would keep filesystems in use that were unmounted elsewhere.
func unmountOthers(path string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	for _, m := range slices.Backward(table) {
		if isNeeded(m.Mountpoint, path) {
			continue
		}
		// EINVAL means that the mount was removed together with the one above it.
		err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("release %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}

// isNeeded reports whether the mount at point may be needed: by the suite, whose folder is at path, or by a command
// that the suite runs.
func isNeeded(point, path string) bool {
	if rel, err := filepath.Rel(point, path); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
		return true
	}
	top, hasChild, _ := strings.Cut(strings.TrimPrefix(point, "/"), "/")
	switch {
	case slices.Contains([]string{"proc", "sys", "dev", "usr", "bin", "sbin", "etc"}, top),
		strings.HasPrefix(top, "lib"):
		return true
	}
	if point == "/run/lock" { // LVM's commands lock each other out with files there
		return true
	}
	return hasChild == "" && slices.Contains([]string{"run", "tmp", "var"}, top)
}

// The maximum space that the suite uses, in addition to a pool's reserve. spaceUnsized is for a pool that enforces no
// sizes, in which the suite fills no volume.
const (
	spaceSized   = 4 * dataset.GiB
	spaceUnsized = 1 * dataset.GiB
)

// poolTimeout is how long AwaitPool waits for a new pool. pollPause is the pause between two attempts.
const (
	poolTimeout = 20 * time.Second
	pollPause   = 200 * time.Millisecond
)

func newBackendVerifyCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify POOL",
		Short: "Verify and time the capabilities of a pool",
		Long: `Run the test suite for backends on a pool: on its filesystem, in a temporary
folder beside its datasets, which are neither read nor changed. The report says
for each capability whether the pool claims it and whether the suite verified
it, and how long calls take. Run it as root on the node of the pool. It takes a
few minutes, and up to 4 GiB for that time. Volumes stay available meanwhile,
but their disk is busier.

The folder is removed at the end, also after an interruption. If the command is
killed, drover doctor names the leftover folder, and the next verification of
that pool removes it. The command fails if a claimed capability is not verified.`,
		Example: `  drover backend verify default
  drover backend verify default -o json`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.PoolWords),
	}
	o := cli.OutputFlags(cmd, false)
	var folder string
	cmd.Flags().StringVar(&folder, "inside", "",
		"run the suite in the temporary folder at `PATH` (used by drover itself)")
	cobra.CheckErr(cmd.Flags().MarkHidden("inside"))
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if folder != "" {
			kind, err := settings.Backends().Kind(args[0])
			if err != nil {
				return err
			}
			return Inside(cmd.Context(), kind, folder, a.Out)
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		p, err := AwaitPool(cmd.Context(), a, c, args[0])
		if err != nil {
			return err
		}
		r, err := a.VerifyPool(cmd.Context(), p)
		if err != nil {
			return err
		}
		return printReport(a, o, r)
	}
	return cmd
}

// AwaitPool returns a pool once its node has reported it. That takes a moment after the pool was created. After
// poolTimeout it returns the pool without a status.
func AwaitPool(ctx context.Context, a *cli.App, c cli.Remote, name string) (api.Pool, error) {
	for waited := time.Duration(0); ; waited += pollPause {
		pools, err := c.Pools(ctx)
		if err != nil {
			return api.Pool{}, err
		}
		p, err := cli.Find(pools, "pool", name,
			func(p api.Pool) string { return p.Name }, func(p api.Pool) uuid.UUID { return p.ID })
		if err != nil || p.Status != nil || waited >= poolTimeout {
			return p, err
		}
		if err := a.Sleep(ctx, pollPause); err != nil {
			return api.Pool{}, err
		}
	}
}

// VerifyPool runs the suite in a temporary folder of a pool, and removes the folder.
func VerifyPool(ctx context.Context, a *cli.App, p api.Pool) (r *verify.Report, err error) {
	ctx, stop := a.Signals(ctx)
	defer stop()
	path, err := checkVerifiable(p)
	if err != nil {
		return nil, err
	}
	if err := removeLeftovers(ctx, a, p, path); err != nil {
		return nil, err
	}
	if err := checkDiskSpace(p, path); err != nil {
		return nil, err
	}
	counted := AreQuotasConsistent(path)
	at, err := trialdir.Make(path, p.ID, p.Backend)
	if err != nil {
		return nil, err
	}
	defer func() {
		rErr := at.Remove(context.WithoutCancel(ctx), settings.Backends())
		if rErr != nil {
			rErr = fmt.Errorf("%w (drover doctor --gc %s --dry-run shows what is left)", rErr, at.ID)
		}
		if err = errors.Join(err, rErr, at.Close()); err == nil && counted && !AreQuotasConsistent(path) {
			r.Warnings = append(r.Warnings, QuotaWarning(path))
		}
	}()
	r = &verify.Report{Pool: p.Name, ID: p.ID, Node: p.NodeName, Backend: p.Backend, Path: path, Note: p.Note}
	began, n, claims := a.Now(), 0, verify.Claims{}
	err = Start(ctx, []string{"backend", "verify", p.Backend, "--inside", at.Path}, at.Path,
		func(e verify.Event) error {
			if e.Info != nil {
				claims = *e.Info
			}
			if e.Begins != "" {
				n++
				showStep(a, fmt.Sprintf("%d of %d: %s", n, verify.Count(), e.Begins))
			}
			r.Add(e)
			return nil
		})
	showStep(a, "")
	if err == nil && len(r.Cases) < verify.Count() {
		err = fmt.Errorf("the suite ended after %d of %d cases: nothing was verified", len(r.Cases), verify.Count())
	}
	if err != nil {
		return nil, err
	}
	r.Seconds = a.Now().Sub(began).Seconds()
	return r, r.Judge(p.Capabilities, claims.Capabilities)
}

// AreQuotasConsistent reports whether path is on a btrfs whose full quotas are consistent.
func AreQuotasConsistent(path string) bool {
	dir, err := os.Open(path)
	if err != nil {
		return false
	}
	defer dir.Close()
	if btrfsctl.StartCleanup(dir) != nil { // so that the quotas do not count removed data
		return false
	}
	mode, settled, err := btrfsctl.Quotas(dir)
	return err == nil && mode == btrfsctl.QuotaFull && settled
}

// QuotaWarning returns the warning that the kernel no longer enforces quotas. The kernel sometimes marks them as
// inconsistent when subvolumes are removed (kdave/btrfs-progs#922).
func QuotaWarning(path string) string {
	return fmt.Sprintf("the kernel has marked the quotas of this btrfs as inconsistent: none of their limits is "+
		"enforced until they are counted again (btrfs quota rescan -w %s; for a pool of backend btrfs, drover "+
		"starts that itself)", path)
}

// checkVerifiable returns the path of a pool on this host, if the suite can run there now.
func checkVerifiable(p api.Pool) (string, error) {
	switch st := p.Status; {
	case os.Geteuid() != 0:
		return "", dataset.Errorf(dataset.ErrForbidden, "drover backend verify mounts filesystems: run it as root")
	case st == nil || !st.Online:
		return "", dataset.Errorf(dataset.ErrOffline, "pool %s is %s: it must be online to be verified", p.Name,
			pools.State(p))
	default:
		if err := checkSpace(p, st.Free, st.Size); err != nil {
			return "", err
		}
	}
	return poolFolder(p)
}

// checkSpace fails if the suite does not fit into a pool in addition to the reserve for its datasets.
func checkSpace(p api.Pool, free, size dataset.Size) error {
	need := spaceSized
	if !p.Capabilities.EnforcesSize {
		need = spaceUnsized
	}
	if free >= need+backends.Reserve(size) {
		return nil
	}
	return dataset.Errorf(dataset.ErrNoSpace,
		"pool %s has %s free, and the suite needs %s beside the reserve of %s for its volumes: free some space, "+
			"or verify a similar pool",
		p.Name, free.Human(), need.Human(), backends.Reserve(size).Human())
}

// separateFolderKind returns the backend of a pool whose datasets are not in the pool's folder, otherwise nil.
func separateFolderKind(p api.Pool) backends.SeparateFolderKind {
	kind, err := settings.Backends().Kind(p.Backend)
	if err != nil {
		return nil
	}
	h, _ := kind.(backends.SeparateFolderKind)
	return h
}

// checkDiskSpace checks the free space on the disk itself, because the last report of the pool's node may be old.
func checkDiskSpace(p api.Pool, path string) error {
	if separateFolderKind(p) != nil {
		return nil // the folder and the pool have different free space
	}
	free, size, err := fsctl.Space(path)
	if err != nil {
		return dataset.Errorf(dataset.ErrOffline, "pool %s: %w", p.Name, err)
	}
	return checkSpace(p, dataset.Size(free), dataset.Size(size))
}

// poolFolder returns the folder of a pool: where its image is mounted, if it has one.
func poolFolder(p api.Pool) (string, error) {
	if h := separateFolderKind(p); h != nil {
		path, err := h.SeparateFolder(p.Path)
		if err != nil {
			return "", fmt.Errorf("pool %s of node %s is not visible from here: %w (run this on that node)",
				p.Name, p.NodeName, err)
		}
		return path, nil
	}
	info, err := os.Stat(p.Path)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrOffline,
			"pool %s of node %s is not visible from here: %w (run this on that node)", p.Name, p.NodeName, err)
	}
	if info.IsDir() {
		return p.Path, nil
	}
	loops, err := loopdev.List()
	if err != nil {
		return "", err
	}
	table, err := mount.Table()
	if err != nil {
		return "", err
	}
	for _, l := range loops {
		if m := table.From(l.Path); l.Backing == p.Path && m != nil {
			return m.Mountpoint, nil
		}
	}
	return "", dataset.Errorf(dataset.ErrOffline,
		"pool %s: its image %s is not mounted here (run this on node %s, in drover's mount namespace)",
		p.Name, p.Path, p.NodeName)
}

// removeLeftovers removes the folders of earlier runs. It ignores folders that only have the name of such a folder. It
// fails if another run is in progress.
func removeLeftovers(ctx context.Context, a *cli.App, p api.Pool, path string) error {
	list, err := trialdir.Find(path)
	if err != nil {
		return dataset.Errorf(dataset.ErrOffline, "pool %s: %w", p.Name, err)
	}
	for _, l := range list {
		switch {
		case l.Foreign != "":
			continue
		case l.Busy:
			return dataset.Errorf(dataset.ErrInUse, "pool %s is already being verified: wait for that, or end it",
				p.Name)
		}
		if err := trialdir.Remove(ctx, settings.Backends(), l); err != nil {
			return fmt.Errorf("remove the remains of an earlier run: %w", err)
		}
		showStep(a, "")
		if _, err := fmt.Fprintln(a.ErrOut, "removed the remains of an earlier run: "+l.Path); err != nil {
			return err
		}
	}
	return nil
}

// showStep shows the present step. On a terminal, each step replaces the line of the previous one, and an empty text
// clears the line. Elsewhere, each step is a line, and an empty text prints nothing.
func showStep(a *cli.App, text string) {
	switch oneLine := cli.HasSize(a.ErrOut) && a.Getenv("TERM") != "dumb" && a.Getenv("TERM") != ""; {
	case oneLine:
		_, _ = fmt.Fprint(a.ErrOut, "\r\x1b[K"+text)
	case text != "":
		_, _ = fmt.Fprintln(a.ErrOut, text)
	}
}

// printReport prints a report. It fails if a claimed capability is not verified.
func printReport(a *cli.App, o *cli.Output, r *verify.Report) error {
	print := func() error { return printReportTable(a, r) }
	if o.JSON() {
		print = func() error { return cli.JSON(a.Out, r) }
	}
	if err := print(); err != nil {
		return err
	}
	if r.OK {
		return nil
	}
	var wrong []string
	for _, v := range append(slices.Clone(r.Capabilities), r.Rest) {
		if v.Proven == verify.Unproven || v.Proven == verify.Untried {
			wrong = append(wrong, pools.AbilityInWords(v.Name))
		}
	}
	return fmt.Errorf("pool %s does not do what backend %s claims: %s", r.Pool, r.Backend, strings.Join(wrong, ", "))
}

// VerdictOrder is the order of a verdict in a table.
func VerdictOrder(v verify.Verdict) int {
	return slices.IndexFunc(pools.Abilities(), func(a pools.Ability) bool { return a.Name == v.Name })
}

func printReportTable(a *cli.App, r *verify.Report) error {
	t := cli.NewTable("CAPABILITY", "CLAIMED", "VERIFIED", "CASES")
	rows := slices.Clone(r.Capabilities)
	slices.SortStableFunc(rows, func(x, y verify.Verdict) int { return VerdictOrder(x) - VerdictOrder(y) })
	for _, v := range append(rows, r.Rest) {
		t.Row(pools.AbilityInWords(v.Name), v.Claimed, string(v.Proven), fmt.Sprint(v.Cases))
		for _, f := range v.Failures {
			t.Below(3, f)
		}
	}
	p := a.Palette()
	t.Paint(2, func(s string) string {
		switch verify.Proof(s) {
		case verify.Proven:
			return p.Green(s)
		case verify.Unproven, verify.Untried:
			return p.Red(s)
		}
		return s
	})
	if err := t.Write(a.Out); err != nil {
		return err
	}
	times := cli.NewTable("CALL", "MEDIAN")
	for _, one := range r.Times {
		took := time.Duration(one.Seconds * float64(time.Second))
		text := took.Round(10 * time.Microsecond).String()
		if one.Bytes > 0 && one.Seconds > 0 {
			text = dataset.Size(float64(one.Bytes)/one.Seconds).Human() + "/s"
		}
		times.Row(one.What, text)
	}
	if err := a.PrintLine(""); err != nil {
		return err
	}
	if err := times.Write(a.Out); err != nil {
		return err
	}
	if err := a.PrintLine(""); err != nil {
		return err
	}
	for _, s := range r.Skipped {
		if err := a.PrintLine("not tested: %s", s); err != nil {
			return err
		}
	}
	for _, w := range r.Warnings {
		if err := a.PrintLine("warning: %s", w); err != nil {
			return err
		}
	}
	return a.PrintLine("%d cases in %s at %s, in a temporary folder that was removed; times are for a volume with 64 "+
		"MiB of data",
		len(r.Cases), time.Duration(r.Seconds*float64(time.Second)).Round(time.Second), r.Path)
}
