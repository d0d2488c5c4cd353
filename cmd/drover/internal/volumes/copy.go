package volumes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The states of a copy in the output.
const (
	replicaHealthy  = "healthy"
	replicaStale    = "stale"
	replicaBuilding = "building"
	copySuperseded  = "superseded"
)

// CopyCommand makes drover copy with its subcommands.
func CopyCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "copy",
		SuggestFor: []string{"replica", "superseded"},
		Short:      "Manage replicas and superseded copies",
		Long: `Manage the copies of volumes on other nodes than their homes.

The profile of a volume says how many replicas it has, and how often they are
refreshed; drover volume set-profile changes it. Control places the replicas,
and replaces those of a lost node.

If a volume continues on another node without its home (drover volume move
--force --fenced), the data on the old home becomes a superseded copy. It is
never merged, and never removed automatically. mount gives access to its data,
discard destroys it.`,
	},
		newCopyLsCmd(a), newCopyMountCmd(a), newCopyDiscardCmd(a),
	)
}

// volumeCopy is a replica or a superseded copy of a volume, with those fields of the volume that a table shows.
type volumeCopy struct {
	api.CopyDetail
	Volume   string    `json:"volume"`
	HomeName string    `json:"home_name"`         // name of the volume's home
	State    string    `json:"state"`             // healthy, stale, building or superseded
	Verified time.Time `json:"verified,omitzero"` // when it last had all data of the home; zero: it is not complete

	labels map[string]string // labels of the volume
}

func newCopyLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[volumeCopy]{
		Use:   "ls [VOLUME...]",
		Short: "List the replicas and superseded copies of all or some volumes",
		Long: `List the replicas and superseded copies of all or some volumes. VERIFIED is when
the copy last had all data of the volume's home. Data that was written later is
lost if the home is lost. A replica is stale if that was longer ago than three
times the interval of the profile, and at least five minutes. A superseded copy
has data that its volume lacks. If it has no time yet, it is in use, or its node
is unreachable. MOUNTED AT is where drover copy mount has mounted it.`,
		ValidArgs: cli.Complete(a, cli.VolumeWords),
		Fetch: cli.FromServer(a, func(ctx context.Context, c cli.Remote, q cli.ListQuery) ([]volumeCopy, error) {
			return fetchCopies(ctx, a, c, q.Args)
		}),
		ID:      func(k volumeCopy) string { return k.Dataset.String() },
		Columns: func([]volumeCopy) []cli.Column[volumeCopy] { return copyColumns(a) },
		Compare: func(x, y volumeCopy) int {
			return cmp.Or(strings.Compare(x.Volume, y.Volume), strings.Compare(x.NodeName, y.NodeName))
		},
		Labels: cli.OwnLabels(func(k volumeCopy) map[string]string { return k.labels }),
	})
}

// fetchCopies returns the replicas and superseded copies of the named volumes. Without names it returns those of all
// volumes, and of what is in the trash.
func fetchCopies(ctx context.Context, a *cli.App, c cli.Remote, names []string) ([]volumeCopy, error) {
	var all []api.Volume
	for _, name := range names {
		v, err := c.Volume(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	if len(names) == 0 {
		live, err := cli.FetchAll(ctx, c.Volumes)
		if err != nil {
			return nil, err
		}
		trashed, err := cli.FetchAll(ctx, c.Trash)
		if err != nil {
			return nil, err
		}
		all = slices.Concat(live, trashed)
	}
	return copiesOf(all, a.Now()), nil
}

func copiesOf(all []api.Volume, now time.Time) (out []volumeCopy) {
	for _, v := range all {
		for _, k := range v.CopyDetails {
			if k.Kind == dataset.CopyReplica || k.Kind == dataset.CopySuperseded {
				out = append(out, newVolumeCopy(v, k, now))
			}
		}
	}
	return out
}

func newVolumeCopy(v api.Volume, k api.CopyDetail, now time.Time) volumeCopy {
	c := volumeCopy{CopyDetail: k, Volume: v.Volume, HomeName: v.Node, labels: v.Labels}
	switch {
	case k.Kind == dataset.CopySuperseded:
		c.State, c.Verified = copySuperseded, k.Taken
	case k.Snapshot == uuid.Nil:
		c.State = replicaBuilding
	default:
		c.State = replicaHealthy
		var stale bool
		if c.Verified, stale = IsStale(v.Profile.Replicas, k, now); stale {
			c.State = replicaStale
		}
	}
	return c
}

func copyColumns(a *cli.App) []cli.Column[volumeCopy] {
	colors := a.Palette()
	return []cli.Column[volumeCopy]{
		cli.Volume("VOLUME", func(k volumeCopy) string { return k.Volume }),
		{Header: "NODE", Cell: func(k volumeCopy) string { return k.NodeName }},
		{Header: "HOME", Cell: func(k volumeCopy) string { return k.HomeName }},
		{Header: "STATE", Cell: func(k volumeCopy) string { return k.State }, Paint: func(s string) string {
			if s != replicaHealthy {
				return colors.Yellow(s)
			}
			return s
		}},
		cli.Time(a, "VERIFIED", func(k volumeCopy) time.Time { return k.Verified }),
		{Header: "MOUNTED AT", Cell: func(k volumeCopy) string { return k.Path }},
		{Header: "PROBLEM", Cell: func(k volumeCopy) string { return k.Problem }},
		{Header: "EPOCH", Wide: true, Cell: func(k volumeCopy) string { return strconv.FormatUint(k.Epoch, 10) },
			Compare: cli.By(func(k volumeCopy) uint64 { return k.Epoch })},
		{Header: "DATASET", Wide: true, Cell: func(k volumeCopy) string { return k.Dataset.String() }},
		{Header: "SNAPSHOT", Wide: true, Cell: func(k volumeCopy) string {
			if k.Snapshot == uuid.Nil {
				return ""
			}
			return k.Snapshot.String()
		}},
	}
}

func newCopyMountCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "mount NAME [NODE]",
		Short: "Mount a superseded copy read-only",
		Long: `Mount a superseded copy read-only on the node that has it, and print the mount
point. Data that is missing in the volume can be copied from there by hand. A
clone is mounted, so the superseded copy itself does not change.

It stays mounted, also after a restart of the host, until --off unmounts it. It
cannot be discarded before.`,
		Example: `  drover copy mount db host-a
  drover copy mount db host-a --off`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	off := cmd.Flags().Bool("off", false, "unmount it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpShow, Volume: args[0]}
		if *off {
			req.Kind = dataset.OpHide
		}
		if len(args) > 1 {
			req.Node = args[1]
		}
		return showSuperseded(a, cmd, o, req)
	}
	return cmd
}

// showSuperseded requests that a superseded copy is mounted or unmounted, and waits until its node reports that.
func showSuperseded(a *cli.App, cmd *cobra.Command, o *cli.Output, req api.Request) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	out, err := a.Submit(cmd.Context(), c, o, req)
	if err != nil {
		return err
	}
	if o.Detach {
		return a.Report(o, out, nil)
	}
	ctx, stop := a.Signals(cmd.Context())
	defer stop()
	k, err := awaitMount(ctx, a, c, *out.Operation)
	switch {
	case err != nil:
		return err
	case o.JSON():
		return cli.JSON(a.Out, k)
	case k.MountReadOnly:
		return a.PrintLine("the superseded copy of volume %s is mounted read-only on node %s, at %s", k.Volume,
			k.NodeName, k.Path)
	}
	return a.PrintLine("the superseded copy of volume %s is no longer mounted on node %s", k.Volume, k.NodeName)
}

const (
	// pollPause is the pause between two requests for the state of the mount.
	pollPause = 200 * time.Millisecond
	// maxPolls is the maximum number of these requests. A clone and a mount take far less time.
	maxPolls = 300
)

// awaitMount waits until the node of an operation has mounted or unmounted the superseded copy as requested.
func awaitMount(ctx context.Context, a *cli.App, c cli.Remote, op dataset.Operation) (k volumeCopy, err error) {
	for range maxPolls {
		k, err = findSuperseded(ctx, c, a.Now(), op.DatasetID, op.OtherNode)
		switch {
		case errors.Is(err, dataset.ErrUnavailable): // a server that restarts is unreachable for a moment
		case err != nil && ctx.Err() == nil:
			return k, err
		case err != nil:
		case k.MountReadOnly != (op.Kind == dataset.OpShow):
			return k, dataset.Errorf(dataset.ErrConflict,
				"volume %s: a concurrent request changed the superseded copy (drover copy ls shows "+
					"its state)", k.Volume)
		case k.Problem != "":
			return k, dataset.Errorf(dataset.ErrConflict, "node %s: %s (the node retries)", k.NodeName, k.Problem)
		case k.MountReadOnly == (k.Path != ""):
			return k, nil
		}
		if err := a.Sleep(ctx, pollPause); err != nil {
			return k, dataset.Errorf(dataset.ErrCancelled,
				"interrupted: the node continues (drover copy ls shows the state)")
		}
	}
	if err != nil {
		return k, err
	}
	return k, dataset.Errorf(dataset.ErrPending,
		"node %s has not confirmed the change: it applies it when it is reachable (drover node ls, drover copy "+
			"ls)", k.NodeName)
}

// findSuperseded returns the superseded copy of a dataset that a node keeps. The dataset may be in the trash.
func findSuperseded(ctx context.Context, c cli.Remote, now time.Time, id, node uuid.UUID) (k volumeCopy, err error) {
	v, err := c.Volume(ctx, id.String())
	list := []api.Volume{v}
	if errors.Is(err, dataset.ErrNotFound) {
		list, err = cli.FetchAll(ctx, c.Trash)
	}
	if err != nil {
		return k, err
	}
	for _, k := range copiesOf(list, now) {
		if k.Kind == dataset.CopySuperseded && k.Dataset == id && k.Node == node {
			return k, nil
		}
	}
	return k, dataset.Errorf(dataset.ErrNotFound, "the superseded copy of dataset %s was discarded meanwhile", id)
}

func newCopyDiscardCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "discard NAME [NODE]",
		Aliases: []string{"rm", "remove", "delete"},
		Short:   "Destroy a superseded copy",
		Long: `Destroy a superseded copy for good. Check its data first with
drover copy mount. The command shows what is lost, and the name of
the volume must be typed to confirm it, unless --yes is given.`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NodeWords),
	}
	o := cli.WorkFlags(cmd, false)
	yes := cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req := api.Request{Kind: dataset.OpDiscard, Volume: args[0]}
		if len(args) > 1 {
			req.Node = args[1]
		}
		req, err := confirmDiscard(cmd.Context(), a, o, yes, req)
		if err != nil {
			return err
		}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if o.DryRun {
				return d.ID, fmt.Sprintf("would destroy the superseded copy of volume %s for good", d.Volume)
			}
			return d.ID, fmt.Sprintf("discarded the superseded copy of volume %s: its node destroys it", d.Volume)
		})
	}
	return cmd
}

// confirmDiscard asks for a confirmation, and names the superseded copies that a request can destroy. It returns the
// request with UUIDs instead of names, because other volumes or nodes may have got the names since. The request gets
// the UUID of the dataset if the volume or exactly one copy is found, and that of the node if exactly one copy is
// found.
func confirmDiscard(ctx context.Context, a *cli.App, o *cli.Output, yes *cli.Flag, req api.Request) (
	confirmed api.Request, err error) {
	confirmed = req
	if yes.Given() || o.DryRun {
		return confirmed, nil
	}
	c, err := a.Connect()
	if err != nil {
		return confirmed, err
	}
	if err := a.CheckAllowed(ctx, c, o, req); err != nil {
		return confirmed, err
	}
	ref := req.Volume
	switch v, err := c.Volume(ctx, ref); { // the reference can be an alias, or NAME@PROFILE
	case err == nil:
		req.Volume, ref = v.Volume, v.ID.String()
		confirmed.Volume = ref
	case dataset.KindOf(err) != dataset.ErrNotFound: // a dataset in the trash is found by the lists below
		return confirmed, err
	}
	copies, err := fetchCopies(ctx, a, c, nil)
	if err != nil {
		return confirmed, err
	}
	q := cli.Question{Action: "discard the superseded copy of volume " + req.Volume, Name: req.Volume}
	var found []volumeCopy
	for _, k := range copies {
		ofVolume := k.Volume == ref || strings.HasPrefix(k.Dataset.String(), strings.ToLower(ref))
		onNode := req.Node == "" || k.NodeName == req.Node ||
			strings.HasPrefix(k.Node.String(), strings.ToLower(req.Node))
		if k.Kind != dataset.CopySuperseded || !ofVolume || !onNode {
			continue
		}
		found = append(found, k)
		q.Effects = append(q.Effects, fmt.Sprintf("destroys the data of epoch %d on node %s for good; no other node "+
			"has what was written there last", k.Epoch, k.NodeName))
	}
	switch len(found) {
	case 0: // the copy was reported just now
		q.Effects = append(q.Effects, "destroys the data of the copy for good")
	case 1:
		confirmed.Volume, confirmed.Node = found[0].Dataset.String(), found[0].Node.String()
	}
	q.Effects = append(q.Effects, "drover copy mount "+req.Volume+" shows the data")
	return confirmed, yes.Ask(a, q)
}

// MinimumStale is the age below which a replica is never stale. A younger replica may only wait for the next report of
// its node, which reports every ten seconds, or for the end of a transfer.
const MinimumStale = 5 * time.Minute

// IsWholeReplica reports whether a copy is a replica with a complete snapshot.
func IsWholeReplica(k api.CopyDetail) bool {
	return k.Kind == dataset.CopyReplica && k.Snapshot != uuid.Nil
}

// IsStale reports whether a whole replica of a volume was last verified too long ago, and when that was. replicas is
// the key replicas of the profile of the volume.
func IsStale(replicas dataset.Replicas, k api.CopyDetail, now time.Time) (verified time.Time, stale bool) {
	verified = k.Taken // a copy that just became a replica was not verified yet
	if k.VerifiedAt.After(verified) {
		verified = k.VerifiedAt
	}
	return verified, now.Sub(verified) > max(3*time.Duration(replicas.Every), MinimumStale)
}

// replicaHealth returns how many of the replicas of a volume are complete and up to date. It returns "" if the volume
// has no replicas.
func replicaHealth(v api.Volume, now time.Time) string {
	want, whole, stale := v.Profile.Replicas.Count, 0, 0
	var oldest time.Time
	for _, k := range v.CopyDetails {
		if !IsWholeReplica(k) {
			continue
		}
		whole++
		verified, old := IsStale(v.Profile.Replicas, k, now)
		if old {
			stale++
		}
		if oldest.IsZero() || verified.Before(oldest) {
			oldest = verified
		}
	}
	if want == 0 && whole == 0 {
		return ""
	}
	health, building := "healthy", ""
	switch {
	case whole < want:
		health = "degraded"
		building = DescribeShortage(v.CopyDetails, v.ReplicaShortage)
	case stale > 0:
		health = fmt.Sprintf("%d stale", stale)
	}
	line := fmt.Sprintf("%s: %d of %d complete%s", health, whole, want, building)
	if whole > 0 {
		line += ", the oldest verified " + cli.Ago(now, oldest)
	}
	return line
}

// DescribeShortage says why a volume has fewer complete replicas than its profile requires: DescribeBuilding and, if
// control cannot add the missing ones, the reason.
func DescribeShortage(copies []api.CopyDetail, shortage string) string {
	text := DescribeBuilding(copies)
	if shortage != "" {
		text += "; no node can keep another: " + shortage
	}
	return text
}

// DescribeBuilding names the nodes on which new replicas of a volume are built, as ", building replica on NODE". It
// returns "" if there are none. It leaves out a replica whose node reports a problem, because that replica is not built
// at present. copies are the copies of the volume.
func DescribeBuilding(copies []api.CopyDetail) string {
	nodes := copyNodes(copies, func(k api.CopyDetail) bool {
		return k.Kind == dataset.CopyReplica && k.Snapshot == uuid.Nil && k.Problem == ""
	})
	if len(nodes) == 0 {
		return ""
	}
	return ", building " + onNodes("replica", "replicas", nodes)
}

// onNodes formats things on nodes, such as "replicas on host-a, host-b".
func onNodes(one, several string, nodes []string) string {
	if len(nodes) == 1 {
		several = one
	}
	return several + " on " + strings.Join(nodes, ", ")
}

// copyNodes returns the names of the nodes of the copies for which selects returns true, sorted.
func copyNodes(copies []api.CopyDetail, selects func(api.CopyDetail) bool) (names []string) {
	for _, k := range copies {
		if selects(k) {
			names = append(names, k.NodeName)
		}
	}
	slices.Sort(names)
	return names
}
