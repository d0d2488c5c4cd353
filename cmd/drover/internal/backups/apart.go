package backups

import (
	"bufio"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// chooseCluster returns those of the backups in a repository that drover recover uses. These are the backups of this
// cluster. The backups of one other cluster are added for the names that this cluster did not back up, if this cluster
// has no backups in the repository, or if the user chose that cluster or how to recover from it. Then a recovery can be
// repeated after some of the recovered volumes were backed up. chooseCluster fails with dataset.ErrAmbiguous if there
// are several other clusters, and the user has not chosen one.
func (r *recovery) chooseCluster(all []api.VolumeBackup, now cluster, repository string) (used []api.VolumeBackup,
	err error) {
	here, others := map[string]bool{}, map[uuid.UUID][]api.VolumeBackup{}
	for _, b := range all {
		isKnown := func(v api.Volume) bool { return v.ID == b.Dataset }
		switch {
		case !b.Elsewhere || slices.ContainsFunc(now.volumes, isKnown):
			here[b.Volume] = true
			used = append(used, b)
		case r.cluster == "" || strings.HasPrefix(b.Cluster.String(), strings.ToLower(r.cluster)):
			others[b.Cluster] = append(others[b.Cluster], b)
		}
	}
	switch {
	case r.cluster != "" && len(others) == 0:
		return nil, dataset.Errorf(dataset.ErrNotFound, "repository %s has no backups of another cluster %q",
			repository,
			dataset.Clip(r.cluster))
	case len(others) == 0:
		return used, nil
	case len(used) > 0 && r.cluster == "" && !r.takeOver && !r.keepApart:
		_, _ = fmt.Fprintf(r.app.ErrOut, "drover: backups of other clusters are not used (--cluster uses them): %s\n",
			r.describeClusters(others))
		return used, nil
	case len(others) > 1:
		return nil, dataset.Errorf(dataset.ErrAmbiguous, "repository %s has backups of %d other clusters (choose one: "+
			"--cluster UUID): %s", repository, len(others), r.describeClusters(others))
	}
	for id, list := range others {
		r.other = id
		for _, b := range list {
			if !here[b.Volume] {
				used = append(used, b)
			}
		}
	}
	slices.SortStableFunc(used, func(x, y api.VolumeBackup) int { return x.Taken.Compare(y.Taken) })
	return used, nil
}

// takesOver reports whether a volume takes over from the cluster that it is kept apart from. If that cluster has no
// backups in the repository any more, the user must have named the volume.
func (r *recovery) takesOver(cand *candidate) bool {
	return r.takeOver && !r.out.DryRun && cand.apart != nil &&
		(cand.apart.Cluster == r.other || r.other == uuid.Nil && cand.chosen)
}

// describeClusters describes clusters by their backups, which are sorted by time.
func (r *recovery) describeClusters(clusters map[uuid.UUID][]api.VolumeBackup) string {
	var texts []string
	for _, list := range clusters {
		last := list[len(list)-1]
		texts = append(texts, fmt.Sprintf("%s (node %s, last backup %s)", clusterOf(last),
			cli.Clean(cmp.Or(last.Node, "unknown")), cli.Ago(r.app.Now(), last.Taken)))
	}
	slices.Sort(texts)
	return strings.Join(texts, "; ")
}

// decide sets r.keepApart or r.takeOver if a volume will be created from a backup of another cluster. With --all it
// asks the user, and fails with dataset.ErrInvalid if there is no terminal. A volume that the user names is kept apart.
func (r *recovery) decide(list []*candidate, repository string) error {
	i := slices.IndexFunc(list, func(cand *candidate) bool {
		return cand.Backup.Elsewhere && (cand.State == stateAbsent || cand.State == stateNoProfile)
	})
	if i < 0 || r.rehearsal || r.out.DryRun || r.takeOver || r.keepApart {
		return nil
	}
	from := clusterOf(list[i].Backup)
	if node := list[i].Backup.Node; node != "" {
		from += " (node " + cli.Clean(node) + ")"
	}
	if !r.all {
		r.keepApart = true
		_, err := fmt.Fprintf(r.app.ErrOut, "drover: the backups are of cluster %s, and the volumes are kept apart: "+
			"they make no scheduled backups to repository %s (if that cluster is gone, repeat the command with "+
			"--take-over)\n", from, repository)
		return err
	}
	if !cli.IsTerminal(r.app.In) {
		return dataset.Errorf(dataset.ErrInvalid, "the backups are of cluster %s: is it gone? (yes: --take-over, and "+
			"the volumes are backed up to repository %s as their profiles say; no, or for a rehearsal: --keep-apart)",
			from, repository)
	}
	return r.ask(from, repository)
}

// ask asks the user whether the cluster that made the backups is gone.
func (r *recovery) ask(from, repository string) error {
	_, err := fmt.Fprintf(r.app.ErrOut, "The backups are of cluster %s. Is it gone?\n"+
		"  - take-over: it is gone. The volumes are backed up to repository %s as their profiles say.\n"+
		"  - keep-apart: it may still exist. The volumes make no scheduled backups to that repository.\n"+
		"Type take-over or keep-apart: ", from, repository)
	if err != nil {
		return err
	}
	line, err := bufio.NewReader(r.app.In).ReadString('\n')
	switch answer := strings.TrimSpace(line); answer {
	case "take-over", "keep-apart":
		r.takeOver, r.keepApart = answer == "take-over", answer == "keep-apart"
		return nil
	}
	if err != nil && line == "" {
		return dataset.Errorf(dataset.ErrCancelled, "not decided, nothing was changed: %w", err)
	}
	return dataset.Errorf(dataset.ErrCancelled, "not decided, nothing was changed")
}
