// Package stores has the commands of drover store.
package stores
