package remoteserver

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restserver"
)

// The Server removes what interrupted uploads have left at its start, and then every sweepInterval. If control cannot
// be asked, it tries again after sweepRetry.
const (
	sweepInterval = 24 * time.Hour
	sweepRetry    = time.Minute
)

// Run removes what interrupted uploads have left in the repositories, until ctx ends. It also looks into repositories
// for which there is no grant any more.
func (s *Server) Run(ctx context.Context) {
	for ctx.Err() == nil {
		pause := sweepInterval
		if err := s.sweep(ctx); err != nil {
			s.deps.Log.WithError(err).Debug("cannot list the repositories for other clusters")
			pause = sweepRetry
		}
		select {
		case <-s.deps.Clock.After(pause):
		case <-ctx.Done():
		}
	}
}

func (s *Server) sweep(ctx context.Context) error {
	// With the grants, a directory keeps the count of its files, so that the first upload need not wait for another.
	if _, _, err := s.lookUp(ctx, "", "", s.deps.Clock.Steady()-maxAge); err != nil {
		return err
	}
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	list, err := s.deps.Records.Repositories(reading)
	if err != nil {
		return err
	}
	for _, r := range list {
		if !r.IsDirectory() {
			continue
		}
		err := s.directory(r).Sweep(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, fs.ErrNotExist) { // this host may lack the directory
			s.deps.Log.WithField("repository", r.Name).WithError(err).
				Warn("cannot remove what interrupted uploads have left in the repository")
		}
	}
	return nil
}

// directory returns the directory of a repository. All callers get the same one while a grant allows its use.
func (s *Server) directory(r dataset.Repository) *restserver.Directory {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d := s.directories[r.URL]; d != nil {
		return d
	}
	return restserver.Open(r.URL, s.deps.Clock, s.uploads)
}
