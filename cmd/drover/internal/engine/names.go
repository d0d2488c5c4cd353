package engine

import (
	"context"
	"strings"

	"github.com/moby/moby/client"

	"github.com/droverhq/drover/dataset"
)

// Names returns the names of the running containers by their full IDs. It fails with ErrUnavailable if the engine does
// not answer. It changes nothing, and is safe for concurrent use.
func Names(ctx context.Context, c API) (map[string]string, error) {
	list, err := c.ContainerList(ctx, client.ContainerListOptions{})
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "list the containers: %w", err)
	}
	names := make(map[string]string, len(list.Items))
	for _, ctr := range list.Items {
		if name := label(ctr.Names, ""); name != "" {
			names[ctr.ID] = name
		}
	}
	return names, nil
}

// Version returns the name and the version of the engine, such as "Docker Engine - Community 29.1.0, API 1.52". It
// fails with ErrUnavailable if the engine does not answer. It changes nothing, and is safe for concurrent use.
func Version(ctx context.Context, c *client.Client) (string, error) {
	v, err := c.ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return "", dataset.Errorf(dataset.ErrUnavailable, "ask the engine for its version: %w", err)
	}
	return strings.TrimSpace(v.Platform.Name+" "+v.Version) + ", API " + v.APIVersion, nil
}
